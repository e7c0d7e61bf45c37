"""Routers: whom they choose, with which weights, what keeps the load even, and what must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.diagnostics import layer_stats
from litmus.errors import BadInput
from litmus.model import build
from litmus.nn import AuxLosses, ForwardContext, LayerContext, Router
from litmus.nn.moe.routers import (
    SigmoidRouterConfig,
    SoftmaxRouterConfig,
    SoftmaxV2RouterConfig,
)
from litmus.nn.moe.stats import record_routing, router_stats

TOKENS, EXPERTS, TOP_K = 12, 8, 3


@pytest.fixture
def x() -> Tensor:
    return torch.randn(TOKENS, 16, dtype=torch.float64)


def router(config: Any, layer_context: Callable[..., LayerContext], rough: Any, top_k: int = TOP_K) -> Any:
    return rough(config.build(layer_context(), EXPERTS, top_k))


def training_step(targets: Tensor, **changes: Any) -> ForwardContext:
    return ForwardContext(
        torch.arange(targets.shape[1]).expand(targets.shape), aux_losses=AuxLosses.before(targets), **changes
    )


def balance(router: Router, x: Tensor, ctx: ForwardContext) -> Tensor:
    """The unweighted term that the router leaves for tokens x (N, dim) seen at `step`."""
    assert ctx.aux_losses is not None
    router.add_aux_losses(router(x), ctx)
    return ctx.aux_losses.values["balance"].pop()[1]


def test_softmax_routing_renormalizes_the_likeliest(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SoftmaxRouterConfig(), layer_context, rough)
    routing = module(x)
    for token in range(TOKENS):
        p = (module.weight @ x[token]).softmax(-1)
        best = sorted(range(EXPERTS), key=lambda e: -p[e])[:TOP_K]
        assert routing.experts[token].tolist() == best
        assert_close(routing.gates[token], p[best] / p[best].sum())
        assert_close(routing.shares[token], p)


def test_the_balance_loss_is_that_of_the_switch_transformer(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SoftmaxRouterConfig(balance=0.5), layer_context, rough)
    routing, ctx = module(x), training_step(torch.zeros(2, TOKENS // 2, dtype=torch.long))
    module.add_aux_losses(routing, ctx)
    ((weight, value),) = ctx.aux_losses.values["balance"]  # type: ignore[union-attr]
    p = (x @ module.weight.T).softmax(-1)
    fractions = [(routing.experts == e).sum() / (TOKENS * TOP_K) for e in range(EXPERTS)]
    assert weight == 0.5
    assert_close(value, EXPERTS * sum(p[:, e].mean() * fractions[e] for e in range(EXPERTS)))
    (gradient,) = torch.autograd.grad(value, module.weight)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("config", [SoftmaxRouterConfig(), SigmoidRouterConfig()])
def test_the_balance_loss_is_1_when_the_load_is_even_and_more_when_it_is_not(
    config: Any, layer_context: Callable[..., LayerContext]
) -> None:
    module = config.build(layer_context(), 16, 1)
    ctx = training_step(torch.zeros(1, 16, dtype=torch.long))
    with torch.no_grad():
        module.weight.copy_(100 * torch.eye(16))
        assert_close(balance(module, torch.eye(16), ctx).item(), 1.0, atol=1e-2, rtol=0)
        crowded = torch.eye(16)[:1].expand(16, -1)
        assert balance(module, crowded, ctx) > 1.5


def test_sigmoid_routing_chooses_by_biased_and_weighs_by_unbiased_affinities(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SigmoidRouterConfig(scale=2.5), layer_context, rough)
    module.bias += torch.tensor([0.0, 5, 0, -5, 0.1, 0, -0.1, 0])
    routing = module(x)
    for token in range(TOKENS):
        s = (module.weight @ x[token]).sigmoid()
        best = sorted(range(EXPERTS), key=lambda e: -(s[e] + module.bias[e]))[:TOP_K]
        assert routing.experts[token].tolist() == best
        assert_close(routing.gates[token], 2.5 * s[best] / s[best].sum())
        assert_close(routing.shares[token], s / s.sum())
    assert (routing.experts == 1).any(1).all()
    assert not (routing.experts == 3).any()
    assert not any(parameter is module.bias for parameter in module.parameters())


def test_the_bias_has_no_part_in_any_gradient(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SigmoidRouterConfig(), layer_context, rough)
    plain = module(x)
    module.bias += 3.0  # the same for all: the choice stays
    raised = module(x)
    assert torch.equal(plain.experts, raised.experts)
    assert_close(plain.gates, raised.gates)


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (2, 1), (4, 2), (4, 3), (8, 3)])
def test_only_experts_of_the_best_groups_are_chosen(
    groups: int, top_groups: int, layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SigmoidRouterConfig(groups=groups, top_groups=top_groups), layer_context, rough)
    module.bias += torch.randn(EXPERTS, dtype=torch.float64)
    routing, size = module(x), EXPERTS // groups
    for token in range(TOKENS):
        biased = ((module.weight @ x[token]).sigmoid() + module.bias).tolist()
        members = [range(g * size, (g + 1) * size) for g in range(groups)]
        worth = [sum(sorted((biased[e] for e in group), reverse=True)[:2]) for group in members]
        best = sorted(range(groups), key=lambda g: -worth[g])[:top_groups]
        allowed = [e for g in best for e in members[g]]
        assert routing.experts[token].tolist() == sorted(allowed, key=lambda e: -biased[e])[:TOP_K]


def test_the_sequence_wise_loss_is_that_of_deepseek_v3(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SigmoidRouterConfig(), layer_context, rough)
    rows = x.view(3, 4, 16)
    found = balance(module, x, training_step(torch.zeros(3, 4, dtype=torch.long)))
    expected = torch.zeros((), dtype=torch.float64)
    for row in rows:
        routing, s = module(row), (row @ module.weight.T).sigmoid()
        for e in range(EXPERTS):
            f = EXPERTS / (TOP_K * 4) * (routing.experts == e).sum()
            expected += f * (s[:, e] / s.sum(-1)).mean() / 3
    assert_close(found, expected)


def test_after_a_step_crowded_experts_lose_and_lonely_ones_gain_the_same(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SigmoidRouterConfig(bias_rate=0.25), layer_context, rough)
    targets = torch.zeros(2, TOKENS // 2, dtype=torch.long)
    for _ in range(2):  # two batches before one step, as in gradient accumulation
        module.add_aux_losses(module(x), training_step(targets))
    counts = [2 * int((module(x).experts == e).sum()) for e in range(EXPERTS)]
    mean = sum(counts) / EXPERTS
    assert module.load.tolist() == counts
    assert len({count > mean for count in counts}) == 2
    module.post_optimizer_step()
    assert module.bias.tolist() == [0.25 * ((count < mean) - (count > mean)) for count in counts]
    before = module.bias.clone()
    module.post_optimizer_step()
    assert torch.equal(module.bias, before), "the load is counted anew for each step"


def test_the_bias_evens_out_the_load(layer_context: Callable[..., LayerContext]) -> None:
    module = SigmoidRouterConfig(bias_rate=0.02).build(layer_context(), EXPERTS, 2)
    x = torch.randn(256, 16) + 2.0  # a direction that all tokens share makes some experts everybody's choice
    with torch.no_grad():
        module.weight.normal_(std=0.3)

    @torch.no_grad()
    def violation() -> float:
        ctx = ForwardContext(torch.zeros(1, 256), observed={})
        record_routing(module(x), ctx)
        return router_stats([ctx.observed or {}])[0].max_violation

    before = violation()
    for _ in range(100):
        module.add_aux_losses(module(x), training_step(torch.zeros(1, 256, dtype=torch.long)))
        module.post_optimizer_step()
    assert before > 1 and violation() < 0.4


def test_nothing_is_counted_outside_of_training(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SigmoidRouterConfig(), layer_context, rough).eval()
    module.add_aux_losses(module(x), training_step(torch.zeros(1, TOKENS, dtype=torch.long)))
    assert module.load.sum() == 0


@pytest.mark.parametrize("config", [SoftmaxRouterConfig(), SigmoidRouterConfig()])
def test_padding_does_not_enter_the_balance(
    config: Any, layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(config, layer_context, rough)
    rows = x.view(2, 6, 16)
    targets = torch.zeros(2, 6, dtype=torch.long)
    targets[0, 4:], targets[1, 2], targets[1, :1] = -100, -100, -100  # only what follows the last target is padding
    found = balance(module, x, training_step(targets))
    other = rows.clone()
    other[0, 4:] = torch.randn(2, 16, dtype=torch.float64)
    assert_close(balance(module, other.flatten(0, 1), training_step(targets)), found)
    other[1, 0] = -other[1, 0]
    assert (balance(module, other.flatten(0, 1), training_step(targets)) - found).abs() > 1e-6
    if isinstance(config, SigmoidRouterConfig):
        assert module.load.sum() == 3 * (4 + 6) * TOP_K
    longer, nothing = torch.cat((x, x[:6])), torch.full((1, 6), -100)
    assert_close(balance(module, longer, training_step(torch.cat((targets, nothing)))), found)
    valid = torch.arange(6) < torch.tensor([4, 6])[:, None]
    whole = training_step(torch.zeros(2, 6, dtype=torch.long))
    assert_close(balance(module, x, replace(whole, padding_mask=valid)), found)


@pytest.mark.parametrize("config", [SoftmaxRouterConfig(), SigmoidRouterConfig()])
def test_a_batch_without_targets_has_no_balance_to_lose(
    config: Any, layer_context: Callable[..., LayerContext], x: Tensor
) -> None:
    module = config.build(layer_context(), EXPERTS, TOP_K)
    assert balance(module, x.float(), training_step(torch.full((1, TOKENS), -100))) == 0


@pytest.mark.parametrize("config", [SoftmaxRouterConfig(balance=0), SigmoidRouterConfig(balance=0)])
def test_a_weight_of_zero_leaves_no_term(
    config: Any, layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module, ctx = router(config, layer_context, rough), training_step(torch.zeros(1, TOKENS, dtype=torch.long))
    module.add_aux_losses(module(x), ctx)
    assert ctx.aux_losses.values == {}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["moe", "moe-v3"])
@pytest.mark.parametrize("way", ["bf16", "autocast"])
def test_routers_compute_in_fp32_whatever_the_model_computes_in(name: str, way: str) -> None:
    model = build(name, vocab_size=61, dim=32, depth=1, heads=2, context=16)
    if way == "bf16":
        model = model.bfloat16()
    module: Any = model.layers[0].feedforward.router
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, inputs, routing: seen.extend((inputs[0], routing.gates, routing.shares)))
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        model(torch.randint(61, (2, 8)))
        x, gates, shares = seen
        scores = module.scores(x)
    assert scores.dtype == gates.dtype == shares.dtype == torch.float32
    assert_close(scores, x.float() @ module.weight.float().T)


def test_v2_weighs_by_plain_probabilities_and_ranks_a_group_by_its_best_expert(
    layer_context: Callable[..., LayerContext], rough: Any, x: Tensor
) -> None:
    module = router(SoftmaxV2RouterConfig(groups=4, top_groups=2, scale=2.5), layer_context, rough)
    routing = module(x)
    for token in range(TOKENS):
        p = (module.weight @ x[token]).softmax(-1)
        best = p.view(4, -1).amax(-1).topk(2).indices
        inside = [e for e in range(EXPERTS) if e // (EXPERTS // 4) in best]
        chosen = sorted(inside, key=lambda e: -p[e])[:TOP_K]
        assert routing.experts[token].tolist() == chosen
        assert_close(routing.gates[token], 2.5 * p[chosen])


def test_router_stats_say_how_uneven_the_load_is_over_all_passes() -> None:
    first = {
        "expert_choices": [torch.tensor([2.0, 1, 0, 1]), torch.tensor([4.0, 0, 0, 0])],
        "router_entropy": [torch.tensor([2.0, 2]), torch.tensor([0.0, 2])],
    }
    second = {
        "expert_choices": [torch.tensor([0.0, 1, 2, 1]), torch.tensor([0.0, 4, 0, 0])],
        "router_entropy": [torch.tensor([4.0, 2]), torch.tensor([2.0, 2])],
    }
    even, crowded = router_stats([first, second])
    assert (even.max_violation, even.dead, even.entropy) == (0.0, 0, 1.5)
    assert (crowded.max_violation, crowded.dead, crowded.load) == (1.0, 2, [0.5, 0.5, 0.0, 0.0])


def test_a_model_reports_the_routing_of_each_layer_that_routes() -> None:
    model = build("deepseek", vocab_size=61, dim=32, depth=3, heads=2, context=16)
    figures = layer_stats(model, torch.randint(61, (2, 12))).routing
    assert list(figures) == [1, 2], "the first layer is dense"
    assert all(sum(layer.load) == pytest.approx(1) and len(layer.load) == 16 for layer in figures.values())
    assert all(0 < layer.entropy <= torch.tensor(16.0).log() + 1e-6 for layer in figures.values())
    assert layer_stats(build("standard", size="tiny", vocab_size=61), torch.zeros(1, 4, dtype=torch.long)).routing == {}


def test_routing_of_many_rows_is_over_all_of_them() -> None:
    model = build("moe", vocab_size=61, dim=32, depth=1, heads=2, context=16)
    tokens = torch.randint(61, (7, 12))
    (together,) = layer_stats(model, tokens).routing.values()
    apart = torch.tensor([layer_stats(model, row[None]).routing[0].load for row in tokens])
    assert together.load == pytest.approx(apart.mean(0).tolist())


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"top_k": 5}, "top_k = 5 is more than experts = 4"),
        ({"router": {"kind": "sigmoid", "groups": 3}}, "groups = 3 does not divide experts = 4"),
        ({"router": {"kind": "sigmoid", "top_groups": 2}}, "top_groups = 2 is more than groups = 1"),
        (
            {"top_k": 3, "router": {"kind": "sigmoid", "groups": 2}},
            "top_k = 3 is more than the 2 experts in top_groups",
        ),
        ({"router": {"kind": "softmaxx"}}, "unknown router kind 'softmaxx'; did you mean 'softmax'"),
        ({"router": {"kind": "softmax", "groups": 2}}, "router 'softmax': unknown key 'groups'"),
        ({"router": "softmax"}, "router must be a mapping with a kind, found 'softmax'"),
        ({"top_k": 0}, "top_k = 0 is not valid"),
        ({"experts": 0}, "experts = 0 is not valid"),
    ],
)
def test_what_cannot_be_routed_is_refused_in_one_sentence(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as caught:
        build("moe", vocab_size=61, feedforward=keys)
    assert "\n" not in str(caught.value)
