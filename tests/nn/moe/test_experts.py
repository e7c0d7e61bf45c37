"""Mixture of experts: the sorted, grouped and single-token paths against the loop that defines them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from litmus.model import Decoder, build, training_flops_per_token
from litmus.nn import Experts, ForwardContext, LayerContext, MixtureOfExperts, MoeConfig, Routing, reference_path
from litmus.nn.moe import experts as moe
from litmus.nn.moe.experts import expert_hidden, grouped_linear
from litmus.nn.moe.routers import SigmoidRouterConfig

CONFIGS = [
    MoeConfig(experts=4, top_k=2, hidden=16),
    MoeConfig(experts=8, top_k=1, hidden=16),
    MoeConfig(experts=3, top_k=3, hidden=16),
    MoeConfig(experts=1, top_k=1, hidden=16),
    MoeConfig(experts=8, top_k=3, hidden=16, shared=2, router=SigmoidRouterConfig(groups=4, top_groups=2)),
    MoeConfig(experts=4, top_k=2, hidden=5),
]


def named(config: MoeConfig) -> str:
    return str(config.model_dump(exclude_defaults=True))


def by_definition(module: MixtureOfExperts, x: Tensor) -> Tensor:
    """Token by token."""
    routing = module.router(x.flatten(0, 1))
    out = []
    for token, experts, gates in zip(x.flatten(0, 1), routing.experts, routing.gates, strict=True):
        y = torch.zeros_like(token)
        for expert, gate in zip(experts, gates, strict=True):
            inner, up = (module.experts.gate_up[expert] @ token).chunk(2)
            y = y + gate * (module.experts.down[expert] @ (inner * inner.sigmoid() * up))
        if module.shared is not None:
            inner, up = (module.shared.gate_up.weight @ token).chunk(2)
            y = y + module.shared.down.weight @ (inner * inner.sigmoid() * up)
        out.append(y)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_every_path_equals_the_definition_and_its_gradient(
    config: MoeConfig, fast: bool, layer_context: Callable[..., LayerContext], rough: Any
) -> None:
    module = rough(config.build(layer_context()))
    x = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    expected, found = by_definition(module, x), module(x, ForwardContext(torch.arange(7).expand(2, -1)))
    assert_close(found, expected)
    direction, inputs = torch.randn_like(expected), [x, *module.parameters()]
    gradients = (torch.autograd.grad((y * direction).sum(), inputs) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS[:5], ids=named)
def test_grouped_products_equal_the_loop_forward_and_gradient(
    config: MoeConfig,
    dtype: torch.dtype,
    layer_context: Callable[..., LayerContext],
    rough: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, original = [], F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    module = rough(config.build(layer_context()), dtype)
    x = torch.randn(2, 7, 16).to(dtype).requires_grad_()
    ctx = ForwardContext(torch.arange(7).expand(2, -1))
    outputs = [module(x, ctx)]
    with reference_path():
        outputs.append(module(x, ctx))
    assert len(calls) == 2, "one for each of the two matrices"
    close: dict[str, float] = {"atol": 2e-5, "rtol": 2e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
    assert_close(*outputs, **close)
    direction, inputs = torch.randn(x.shape).to(dtype), [x, *module.parameters()]
    gradients = [torch.autograd.grad((y * direction).sum(), inputs) for y in outputs]
    for one, other in zip(*gradients, strict=True):
        scale = other.abs().max().float().clamp(min=1e-6)
        assert_close(one.float() / scale, other.float() / scale, **close)


@pytest.mark.parametrize("shape", [(16, 5), (5, 16), (6, 8)])
def test_weights_that_grouped_products_refuse_are_multiplied_group_by_group(shape: tuple[int, int]) -> None:
    x, weight = torch.randn(6, shape[1]), torch.randn(3, *shape)
    found = grouped_linear(x, weight, torch.tensor([2, 2, 6], dtype=torch.int32))
    assert_close(found, torch.cat((x[:2] @ weight[0].T, x[2:] @ weight[2].T)))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_one_token_alone_is_what_it_is_in_a_batch(
    config: MoeConfig, dtype: torch.dtype, layer_context: Callable[..., LayerContext], rough: Any
) -> None:
    module = rough(config.build(layer_context()), dtype)
    x = torch.randn(1, 7, 16).to(dtype)
    together = module(x, ForwardContext(torch.arange(7)[None]))
    alone = torch.cat([module(token, ForwardContext(torch.zeros(1, 1), None)) for token in x.split(1, dim=1)], dim=1)
    assert_close(alone, together, **({"atol": 0.05, "rtol": 0.05} if dtype == torch.bfloat16 else {}))


@torch.no_grad()
def test_a_single_token_on_a_cpu_is_not_sorted(
    layer_context: Callable[..., LayerContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = MoeConfig(experts=4, hidden=16).build(layer_context())
    monkeypatch.delattr(Experts, "_sorted")
    module(torch.randn(1, 1, 16), ForwardContext(torch.zeros(1, 1)))
    with pytest.raises(AttributeError):
        module(torch.randn(1, 2, 16), ForwardContext(torch.arange(2)[None]))


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_only_the_chosen_experts_are_read(length: int, fast: bool, layer_context: Callable[..., LayerContext]) -> None:
    module = MoeConfig(experts=8, top_k=2, hidden=16).build(layer_context())
    x = torch.randn(1, 1, 16).expand(1, length, -1)
    chosen = set(module.router(x[0]).experts.flatten().tolist())
    for expert in set(range(8)) - chosen:
        module.experts.gate_up[expert] = torch.nan
        module.experts.down[expert] = torch.nan
    assert len(chosen) == 2
    assert module(x, ForwardContext(torch.arange(length)[None])).isfinite().all()


@torch.no_grad()
def test_no_token_is_dropped_however_crowded_an_expert_is(
    layer_context: Callable[..., LayerContext], rough: Any
) -> None:
    module = rough(MoeConfig(experts=8, top_k=2, hidden=16).build(layer_context()))
    x = torch.randn(1, 1, 16, dtype=torch.float64).expand(1, 50, -1)
    y = module(x, ForwardContext(torch.arange(50)[None]))
    assert_close(y, by_definition(module, x[:, :1]).expand_as(y))


def test_gradients_are_the_same_in_every_run(layer_context: Callable[..., LayerContext]) -> None:
    module = MoeConfig(experts=4, top_k=3, hidden=16).build(layer_context())
    x = torch.randn(4, 50, 16, requires_grad=True)
    runs = []
    for _ in range(2):
        y = module(x, ForwardContext(torch.arange(50).expand(4, -1)))
        runs.append(torch.autograd.grad(y.square().sum(), [x, *module.parameters()]))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_autocast_multiplies_in_bf16_and_gives_fp32_gradients(layer_context: Callable[..., LayerContext]) -> None:
    module = MoeConfig(experts=4, top_k=2, hidden=16, shared=1).build(layer_context())
    x, ctx = torch.randn(2, 7, 16), ForwardContext(torch.arange(7).expand(2, -1))
    seen: list[torch.dtype] = []
    original = moe.grouped_linear
    with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
        patch.setattr(moe, "grouped_linear", lambda *a: seen.append((y := original(*a)).dtype) or y)
        y = module(x, ctx)
    assert seen == [torch.bfloat16] * 2
    assert_close(y.float(), module(x, ctx), atol=1e-3, rtol=0.05)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())


def test_dropout_falls_on_the_inner_vectors_as_in_a_dense_feedforward(
    layer_context: Callable[..., LayerContext],
) -> None:
    module = MoeConfig(experts=4, top_k=2, hidden=16).build(replace(layer_context(), dropout=1.0))
    x = torch.randn(1, 7, 16)
    for reference in (True, False):
        with reference_path(reference):
            assert module(x, ForwardContext(torch.arange(7)[None])).abs().max() == 0


def test_by_default_the_experts_of_a_token_are_as_wide_as_a_dense_swiglu() -> None:
    for name in ("tiny", "mini", "small", "base"):
        with torch.device("meta"):
            dense, sparse = (build(recipe, size=name).parameter_counts() for recipe in ("standard", "moe"))
        router = 4 * build_sizes(name)[0] * build_sizes(name)[1]
        assert sparse["active"] == dense["total"] + router
        assert sparse["total"] > 1.2 * dense["total"]
    assert expert_hidden(128, 2) == 352 / 2


def build_sizes(size: str) -> tuple[int, int]:
    with torch.device("meta"):
        recipe = build("standard", size=size).recipe
    return recipe.dim, recipe.depth


def test_active_parameters_leave_out_idle_experts_and_the_objective() -> None:
    model = build("deepseek", vocab_size=61, dim=32, depth=3, heads=4, context=24)
    counts = model.parameter_counts()
    expert = 3 * 32 * model.layers[1].feedforward.experts.down.shape[-1]
    ahead = sum(p.numel() for p in model.objective.parameters())
    assert counts["total"] - counts["active"] == 2 * (16 - 4) * expert + ahead
    dense = build("standard", vocab_size=61, dim=32, depth=3, heads=4, context=24).parameter_counts()
    assert dense["active"] == dense["total"]


def test_flops_are_counted_for_the_chosen_experts_only() -> None:
    shape = {"vocab_size": 61, "dim": 32, "depth": 2, "heads": 4, "context": 24}
    dense = training_flops_per_token(build("standard", overrides={"feedforward.hidden": 96}, **shape).recipe)
    for experts in (4, 16):
        keys = {"kind": "moe", "experts": experts, "top_k": 3, "hidden": 32}
        sparse = training_flops_per_token(build("standard", feedforward=keys, **shape).recipe)
        assert sparse - dense == 2 * 6 * 32 * experts, "the router, in two layers"


@torch.no_grad()
@pytest.mark.parametrize("name", ["moe", "moe-v3"])
def test_the_company_of_other_tokens_changes_no_logits(name: str, rough: Callable[..., Decoder]) -> None:
    model = rough(build(name, vocab_size=61, dim=32, depth=2, heads=4, context=24)).train()
    tokens = torch.randint(61, (6, 20))
    assert_close(model(tokens)[:1], model(tokens[:1]))
    assert_close(model(tokens)[:, :3], model(tokens[:, :3]))


def test_each_layer_adds_its_balance_to_the_training_loss_and_none_to_the_score() -> None:
    model = build("moe", vocab_size=61, dim=32, depth=2, heads=4, context=24)
    tokens = torch.randint(61, (2, 12))
    loss = model.loss(tokens, tokens)
    assert_close(loss.total, loss.parts["next_token"] + 0.01 * 2 * loss.parts["balance"])
    assert loss.parts["next_token"].item() == pytest.approx(model.token_losses(tokens, tokens).mean().item(), rel=1e-5)
    router = model.layers[0].feedforward.router.weight
    (gradient,) = torch.autograd.grad(loss.parts["balance"], router)
    assert gradient.abs().max() > 0


def test_gates_carry_a_gradient_to_the_router_without_any_balance_loss(
    layer_context: Callable[..., LayerContext],
) -> None:
    module = MoeConfig(experts=4, top_k=2, hidden=16, router={"kind": "softmax", "balance": 0}).build(layer_context())
    x = torch.randn(1, 9, 16)
    module(x, ForwardContext(torch.arange(9)[None])).square().sum().backward()
    assert module.router.weight.grad.abs().sum() > 0


def test_weights_start_as_in_a_dense_feedforward(layer_context: Callable[..., LayerContext]) -> None:
    experts = MoeConfig(experts=8, hidden=64).build(layer_context(dim=64, depth=8)).experts
    assert experts.gate_up.std().item() == pytest.approx(0.02, rel=0.05)
    assert experts.down.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05)


def test_a_routing_is_what_the_experts_obey(layer_context: Callable[..., LayerContext], rough: Any) -> None:
    experts = rough(MoeConfig(experts=4, top_k=2, hidden=16).build(layer_context())).experts
    x = torch.randn(3, 16, dtype=torch.float64)
    gates = torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5]], dtype=torch.float64)
    routing = Routing(torch.tensor([[0, 1], [0, 1], [0, 1]]), gates, torch.ones(3, 4))
    y = experts(x, routing)
    with reference_path():
        first, second = (experts(x, Routing(torch.full((3, 2), e), gates * 0 + 0.5, routing.shares)) for e in (0, 1))
    assert_close(y, torch.stack((first[0], second[1], (first[2] + second[2]) / 2)))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "whole"), [(torch.bfloat16, True), (torch.float32, False)])
def test_it_can_be_compiled(dtype: torch.dtype, whole: bool) -> None:
    model = build("moe-v3", vocab_size=61, dim=32, depth=1, heads=4, context=24).to(dtype)
    tokens = torch.randint(61, (2, 16))
    compiled = torch.compile(model.loss, backend="aot_eager", dynamic=False, fullgraph=whole)
    plain = model.loss(tokens, tokens).total
    expected = torch.autograd.grad(plain, list(model.parameters()))
    found = compiled(tokens, tokens).total
    assert_close(found, plain)
    for one, other in zip(torch.autograd.grad(found, list(model.parameters())), expected, strict=True):
        assert_close(one, other)
