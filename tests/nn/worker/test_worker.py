"""Worker models: every logit is what its prefix alone would give, and training asks what decoding will ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.generation.decode_weights import prepare
from litmus.model import Decoder, build, scored_share
from litmus.nn import Batch, ForwardContext, reference_path
from litmus.nn.worker.block import WorkerBlock, workers

VOCABULARY = 61


def small(**changes: Any) -> Decoder:
    plain = {"vocab_size": VOCABULARY, "dim": 16, "depth": 3, "heads": 2, "context": 24}
    return build("worker", overrides={**plain, **changes})


def model_with(rough: Callable[..., Decoder], **changes: Any) -> Decoder:
    return rough(small(**changes)).eval()


def text(rows: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(3))


def by_hand(model: Decoder, tokens: Tensor, phase: int) -> Tensor:
    """Logits (V,) after all tokens (T,), with the last made a worker: each layer spelled out for this prefix."""
    length = len(tokens)
    index = torch.arange(length)
    working = (index % model.layers[0].interval == phase) | (index == length - 1)
    x = model.embedding(tokens)
    first: WorkerBlock = model.layers[0]  # type: ignore[assignment]
    if first.worker_type is not None:
        x = torch.where(working[:, None], x + first.worker_type, x)
    for layer in model.layers:
        x = layer_by_hand(layer, x, working, index)  # type: ignore[arg-type]
    return model.head(model.norm(x[-1]))


def layer_by_hand(layer: WorkerBlock, x: Tensor, working: Tensor, index: Tensor) -> Tensor:
    ctx = ForwardContext(index[None])
    lags, dim = layer.conv.lags, x.shape[1]
    filters = layer.conv.weight.flip(0).permute(2, 1, 0)  # (dim, 1, width), the last for the token itself
    mixed = F.conv1d(F.pad(x.T[None], (lags, 0)), filters, layer.conv.bias, groups=dim)[0].T
    h = layer.mixer_norm(mixed)
    q, k, v = layer.mixer.qkv_proj(h[None], ctx)
    query_scale = layer.mixer.ssmax(ctx) if layer.mixer.ssmax else torch.ones(1, len(x), 1)
    k, v = (y.repeat_interleave(layer.mixer.heads // layer.mixer.kv_heads, dim=2) for y in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5 * query_scale.transpose(1, 2)[..., None]
    scores = scores.masked_fill(index > index[:, None], -torch.inf)
    read = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
    updated = x + layer.mixer.out_proj(read, h[None], ctx)[0]
    updated = updated + layer.feedforward(layer.feedforward_norm(updated)[None], ctx)[0]
    non_workers = x if layer.share is None else x + layer.share * h
    return torch.where(working[:, None], updated, non_workers)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"block.interval": 1},
    {"block.interval": 3, "block.conv_width": 1},
    {"block.conv_width": 4, "block.type_embedding": False, "mixer.gate": None},
    {"block.others": "residual", "mixer.ssmax": {}, "mixer.qk_norm": True},
    {"mixer.kv_heads": 1, "mixer.bias": True, "block.interval": 24},
]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_each_logit_is_what_its_prefix_gives_with_its_last_token_a_worker(
    changes: dict[str, Any], rough: Callable[..., Decoder]
) -> None:
    model, tokens = model_with(rough, **changes), text(1, 11)
    with torch.no_grad():
        found = model(tokens)[0]
        for t in range(tokens.shape[1]):
            assert_close(found[t], by_hand(model, tokens[0, : t + 1], model.layers[0].interval - 1))  # type: ignore[operator]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("interval", [1, 2, 3, 4, 7])
def test_decoding_is_exact_whatever_token_it_begins_at(interval: int, rough: Callable[..., Decoder]) -> None:
    model, tokens = model_with(rough, **{"block.interval": interval, "block.others": "residual"}), text(2, 17)
    full = model(tokens)
    for prefill in range(1, 10):
        cache = model.new_cache(2, 17)
        parts = [model(part, cache) for part in tokens.split([prefill, *[1] * (17 - prefill)], dim=1)]
        assert_close(torch.cat(parts, dim=1), full)


def scored_in_training(model: Decoder, tokens: Tensor, seed: int, documents: Tensor | None = None) -> Tensor:
    """(B, T) which targets a training pass puts a loss on: those whose change changes it."""
    sampled = model.objective.draw  # type: ignore[operator]
    torch.manual_seed(seed)
    query_set = sampled(model.forward_context(Batch(tokens, document_ids=documents)))
    scored = torch.zeros_like(tokens)
    for group in query_set.groups:
        scored.scatter_add_(1, group.index, group.real.long())
    return scored


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("changes", [{}, {"queries": 0.5}, {"queries": 0.0}], ids=str)
def test_a_training_loss_is_the_mean_over_the_tokens_drawn(
    changes: dict[str, float], packed: bool, rough: Callable[..., Decoder]
) -> None:
    """With the phase fixed, what training scores is what evaluation gives at the same tokens."""
    overrides = {"block.phase": "fixed", **{f"objective.{key}": value for key, value in changes.items()}}
    model, tokens, targets = model_with(rough, **overrides), text(3, 23), text(3, 23).roll(1, 0)
    documents = torch.tensor([0] * 5 + [1] * 1 + [2] * 10 + [3] * 7).expand(3, -1) if packed else None
    nats = model.token_losses(Batch(tokens, targets, documents))
    model.train()
    for seed in range(5):
        scored = scored_in_training(model, tokens, seed, documents)
        assert scored.max() == 1
        torch.manual_seed(seed)
        assert_close(model.loss(Batch(tokens, targets, documents)).total, nats[scored == 1].mean())


def test_a_random_phase_shifts_the_workers_of_each_row(rough: Callable[..., Decoder]) -> None:
    model, tokens = model_with(rough), text(1, 14).expand(40, -1)
    model.train()
    torch.manual_seed(0)
    query_set = model.objective.draw(model.forward_context(tokens))  # type: ignore[operator]
    torch.manual_seed(0)
    loss = model.loss(tokens, tokens).total
    expected = []
    with torch.no_grad():
        for row in range(len(tokens)):
            phase = int(query_set.workers[row].nonzero()[0])
            for group in query_set.groups:
                for t in group.index[row][group.real[row]].tolist():
                    log_p = by_hand(model, tokens[row, : t + 1], phase).log_softmax(-1)
                    expected.append(-log_p[tokens[row, t]])
    assert_close(loss.detach(), torch.stack(expected).mean())
    assert len({int(row.nonzero()[0]) for row in query_set.workers}) == 4


def test_training_asks_from_every_distance_to_the_worker_before() -> None:
    model, tokens = small(), text(64, 16)
    query_set = model.objective.draw(model.forward_context(tokens))  # type: ignore[operator]
    phase = query_set.workers.long().argmax(1, keepdim=True)
    non_workers = query_set.groups[1].index[query_set.groups[1].real] - phase.expand(-1, 4)[query_set.groups[1].real]
    assert set((non_workers % 4).tolist()) == {1, 2, 3}


@pytest.mark.parametrize(
    ("interval", "queries", "share"), [(4, 1.0, 1 / 2), (4, 0.5, 3 / 8), (3, 0.0, 1 / 3), (1, 1, 1)]
)
def test_the_share_of_tokens_scored_is_the_declared_one(interval: int, queries: float, share: float) -> None:
    model = small(**{"block.interval": interval, "objective.queries": queries})
    scored = scored_in_training(model, text(400, 24), seed=0)
    assert scored_share(model.recipe) == model.objective.scored_share == pytest.approx(share)
    assert scored.double().mean() == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1, 3, 24])
def test_fast_training_equals_its_reference(length: int, packed: bool, rough: Callable[..., Decoder]) -> None:
    model, tokens = model_with(rough, **{"block.others": "residual"}).train(), text(3, length)
    documents = (torch.arange(length) // 5).expand(3, -1) if packed else None

    def passed(fast: bool) -> list[Tensor]:
        torch.manual_seed(1)
        with reference_path(not fast):
            total = model.loss(Batch(tokens, tokens, documents)).total
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        return [total.detach(), *(g for g in gradients if g is not None)]

    for one, other in zip(passed(True), passed(False), strict=True):
        assert_close(one, other)


def test_with_every_token_a_worker_and_no_convolution_it_is_the_gated_baseline(rough: Callable[..., Decoder]) -> None:
    plain = {"block.interval": 1, "block.conv_width": 1, "block.type_embedding": False}
    model = model_with(rough, **plain)
    for layer in model.layers:
        layer.conv.weight.data.fill_(1.0)  # type: ignore[operator, union-attr]
        layer.conv.bias.data.zero_()  # type: ignore[operator, union-attr]
    baseline = rough(build("standard", overrides={**_sizes(model), "mixer.gate": {"kind": "elementwise"}})).eval()
    baseline.load_state_dict(model.state_dict(), strict=False)
    tokens = text(2, 20)
    assert_close(model(tokens), baseline(tokens))


def _sizes(model: Decoder) -> dict[str, int]:
    return {name: getattr(model.recipe, name) for name in ("vocab_size", "dim", "depth", "heads", "context")}


def test_experts_of_workers_count_the_tokens_asked(rough: Callable[..., Decoder]) -> None:
    model = model_with(rough, feedforward={"kind": "moe", "experts": 4, "top_k": 2}).train()
    loss = model.loss(text(2, 13), text(2, 13))
    loss.total.backward()
    assert "balance" in loss.parts and loss.total.isfinite()


def test_parameters_are_those_published_for_65_characters() -> None:
    assert build("worker-paper").parameter_counts()["total"] == 3_452_928
    assert build("worker-baseline").parameter_counts()["total"] == 3_448_576


def test_the_cache_grows_by_keys_and_values_alone(rough: Callable[..., Decoder]) -> None:
    model = model_with(rough)
    assert model.kv_elements(20) - model.kv_elements(10) == 10 * 3 * 2 * 16
    assert model.kv_elements(10) == 10 * 3 * 2 * 16 + 3 * 2 * 16  # two states before the convolution, per layer


def test_workers_are_counted_from_where_each_text_begins() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 1, 2, 3, 4, 5]])
    valid = torch.tensor([[True] * 8, [False] * 2 + [True] * 6])
    found = workers(ForwardContext(positions, None, valid), 3)
    assert found[0].nonzero()[:, 0].tolist() == [2, 6]
    assert found[1].nonzero()[:, 0].tolist() == [4, 7]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"block.interval": 0}, "interval = 0"),
        ({"block.interval": 25}, "valid: 1 to 24"),
        ({"block.conv_width": 0}, "conv_width = 0"),
        ({"block.phase": "sometimes"}, "phase"),
        ({"objective.queries": 1.5}, "queries = 1.5"),
        ({"mixer": {"kind": "mla"}}, "only 'attention' is valid"),
        ({"block": {"kind": "prenorm"}}, "objective 'worker' trains worker blocks"),
        ({"layers": [{"repeat": 1, "block": {"kind": "prenorm"}}, {"repeat": "rest"}]}, "in every layer"),
        ({"layers": [{"repeat": 1, "block": {"interval": 2}}, {"repeat": "rest"}]}, "one interval"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused_in_one_sentence(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named) as refused:
        small(**changes)
    assert "\n" not in str(refused.value)


@torch.no_grad()
def test_weights_prepared_for_decoding_say_nearly_the_same(rough: Callable[..., Decoder]) -> None:
    model, tokens = rough(small(), torch.float32).eval(), text(2, 17)
    for changed, tolerance in ((prepare(model), 1e-4), (prepare(model, "bf16", int8=True), 0.5)):
        cache = changed.new_cache(2, 17)
        parts = [changed(part, cache) for part in tokens.split([9, *[1] * 8], dim=1)]
        assert_close(torch.cat(parts, dim=1).float(), model(tokens), rtol=tolerance, atol=tolerance)
