"""Mixture of depths: who is chosen, what happens to them, what it costs, and what the published choice sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.auditing import audit
from litmus.errors import BadInput
from litmus.model import Decoder, build, training_flops_per_token
from litmus.nn import DepthBlock, DepthConfig, ForwardContext, LayerContext, PreNormBlock, reference_path
from litmus.nn.core.aux_losses import AuxLosses
from litmus.nn.mod.routers import ThresholdRouter, TopKRouter

SIZES: dict[str, Any] = {"vocab_size": 61, "dim": 32, "depth": 3, "heads": 4, "context": 24}


@pytest.fixture
def block(layer_context: Callable[..., LayerContext], rough: Callable[..., DepthBlock]) -> Callable[..., DepthBlock]:
    """A layer that is routed."""
    return lambda **options: rough(DepthConfig(every=1, **options).build(layer_context()))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 12, 16, dtype=torch.float64)


def at_once(x: Tensor, **changes: Any) -> ForwardContext:
    return ForwardContext(torch.arange(x.shape[1]).expand(x.shape[:2]), **changes)


@pytest.mark.parametrize("fast", [True, False])
def test_chosen_tokens_are_a_text_of_their_own_and_the_rest_pass_by(
    fast: bool, block: Callable[..., DepthBlock], x: Tensor
) -> None:
    layer = block(capacity=0.4)
    chosen, weight = layer.router(x, at_once(x))
    y = layer(x, at_once(x))
    assert 0 < chosen.sum() < chosen.numel()
    assert torch.equal(y[~chosen], x[~chosen])
    for row in range(2):
        text = x[row, chosen[row]][None]
        inside = text + weight[row, chosen[row], None] * (layer.block(text, at_once(text)) - text)
        assert_close(y[row, chosen[row]], inside[0])


def test_a_token_is_chosen_by_its_own_score_alone(block: Callable[..., DepthBlock], x: Tensor) -> None:
    layer = block().train()
    chosen, weight = layer.router(x, at_once(x))
    normed = x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
    scores = normed @ layer.router.weight
    assert torch.equal(chosen, scores > layer.router.threshold)
    assert_close(weight, scores.sigmoid())


@pytest.mark.parametrize("capacity", [0.125, 0.3, 0.7])
def test_about_the_capacity_is_chosen_at_birth_and_after_scores_have_moved(
    capacity: float, layer_context: Callable[..., LayerContext]
) -> None:
    router = ThresholdRouter(capacity, 0.5, layer_context(dim=64)).train()
    x = torch.randn(8, 256, 64)
    ctx = at_once(x, aux_losses=AuxLosses(torch.ones(8, 256, dtype=torch.bool)))
    share = router(x, ctx)[0].float().mean()
    assert share.item() == pytest.approx(capacity, abs=0.03)
    with torch.no_grad():
        router.weight += 0.3
    router.post_optimizer_step()
    for _ in range(20):
        router(x, ctx)
        router.post_optimizer_step()
    assert router(x, ctx)[0].float().mean().item() == pytest.approx(capacity, abs=0.01)


def test_the_threshold_follows_counted_tokens_in_training_only(
    layer_context: Callable[..., LayerContext], x: Tensor
) -> None:
    router = ThresholdRouter(0.5, 1.0, layer_context()).double()
    counted = torch.zeros(2, 12, dtype=torch.bool)
    counted[0, :3] = True
    before = router.threshold.clone()
    for training, terms in ((False, AuxLosses(counted)), (True, None), (True, AuxLosses(torch.zeros_like(counted)))):
        router.train(training)
        router(x, at_once(x, aux_losses=terms))
        router.post_optimizer_step()
        assert torch.equal(router.threshold, before)
    router(x, at_once(x, aux_losses=AuxLosses(counted)))
    router.post_optimizer_step()
    normed = x / x.square().mean(-1, keepdim=True).sqrt()
    assert_close(router.threshold, (normed[0, :3] @ router.weight).median(), check_dtype=False)


def test_the_published_choice_takes_the_highest_scores_of_each_row(
    layer_context: Callable[..., LayerContext], x: Tensor
) -> None:
    router = TopKRouter(0.25, 0.01, layer_context()).double().train()
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, :6] = False
    chosen, weight = router(x, at_once(x, padding_mask=valid))
    assert chosen.sum(1).tolist() == [3, 3]
    assert not chosen[1, :6].any()
    for row in range(2):
        assert weight[row, chosen[row]].min() >= weight[row, valid[row] & ~chosen[row]].max()


@pytest.mark.slow
def test_the_predictor_learns_who_is_chosen_without_a_say_in_what_is_learned(
    layer_context: Callable[..., LayerContext], x: Tensor
) -> None:
    router = TopKRouter(0.25, 0.01, layer_context()).double().train()
    x.requires_grad_()
    optimizer = torch.optim.Adam([router.predictor, router.predictor_bias], lr=0.3)
    for _ in range(200):
        terms = AuxLosses(torch.ones(2, 12, dtype=torch.bool))
        chosen, _ = router(x, at_once(x, aux_losses=terms))
        ((weight, nats),) = terms.values["depth_predictor"]
        assert torch.autograd.grad(nats, [x, router.weight], allow_unused=True, retain_graph=True) == (None, None)
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
    assert weight == 0.01
    assert torch.equal(router.eval()(x, at_once(x))[0], chosen)


def test_the_audit_finds_that_the_published_choice_sees_the_future_in_training() -> None:
    found = audit({"base": "mod", **SIZES, "block": {"selection": "topk"}}, quick=True, only=("causality",))
    assert not found.passed
    assert "sees the future in training" in str(found)


@pytest.mark.parametrize(
    "parts",
    [
        {"mixer": {"kind": "mla"}},
        {"mixer": {"kind": "window", "window": 3, "sinks": 1}},
        {"feedforward": {"kind": "moe", "experts": 4, "top_k": 2}},
        {"block.selection": "topk"},
        {"block.capacity": 0.9, "block.every": 1},
    ],
    ids=str,
)
@torch.no_grad()
def test_routed_layers_of_any_parts_decode_as_they_evaluate(parts: dict[str, Any], rough: Any) -> None:
    model = rough(build("mod", overrides=parts, **SIZES)).eval()
    tokens = torch.randint(61, (3, 20))
    with reference_path():
        full = model(tokens)
    assert_close(model(tokens), full)
    for chunks in (1, [7, 6, 1, 1, 5]):
        cache = model.new_cache(3, 20)
        assert_close(torch.cat([model(part, cache) for part in tokens.split(chunks, dim=1)], dim=1), full)
        counts = cache.layers[1]["chosen"]
        assert counts.min() < 20
        assert cache.layers[1]["chosen"].shape == (3, 1)


def test_the_flops_of_a_routed_layer_are_its_share() -> None:
    sizes = {**SIZES, "depth": 2, "context": 64, "overrides": {"block": {"kind": "mod", "capacity": 0.25}}}
    routed = build("standard", **sizes).recipe
    one, two = (build("standard", **{**SIZES, "depth": depth, "context": 64}).recipe for depth in (1, 2))
    layer = training_flops_per_token(two) - training_flops_per_token(one)
    share = (training_flops_per_token(routed) - training_flops_per_token(one)) / layer
    assert 0.2 < share < 0.26  # a quarter of the maps, a sixteenth of the attention


def test_every_other_layer_is_routed_from_the_second_on() -> None:
    model = build("mod", **{**SIZES, "depth": 5})
    assert [type(layer) for layer in model.layers] == [
        PreNormBlock,
        DepthBlock,
        PreNormBlock,
        DepthBlock,
        PreNormBlock,
    ]


def test_a_row_in_which_nobody_is_chosen_decodes_unchanged(block: Callable[..., DepthBlock], x: Tensor) -> None:
    layer = block()
    layer.router.threshold.fill_(torch.inf)
    cache = layer.new_cache(2, 12, device=x.device, dtype=x.dtype)
    for fast in (True, False):
        with torch.no_grad(), reference_path(not fast):
            assert torch.equal(layer(x, at_once(x, cache=cache, kv_len=12)), x)
    assert cache["chosen"].tolist() == [[0], [0]]
    assert layer(x, at_once(x)).equal(x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 4}, "every = 4 routes none of 3 layers; at most depth is valid"),
        ({"capacity": 1.0}, "block 'mod': capacity"),
        ({"capacity": 0.0}, "block 'mod': capacity"),
        ({"selection": "best"}, "block 'mod': selection"),
    ],
)
def test_shares_and_layers_that_cannot_be_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        Decoder(build("mod", overrides={"block": options}, **SIZES).recipe)
