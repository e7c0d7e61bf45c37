"""The contract of a model, held by every recipe: one meaning for logits, whatever path computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from litmus.generation import generate
from litmus.model import Decoder, build, load, save, training_flops_per_token
from litmus.nn import Batch, Cache, reference_path
from litmus.nn.objectives import cross_entropy as loss

VOCABULARY, CONTEXT, LENGTH = 61, 24, 20
SHRUNK: dict[str, Any] = {
    "size": "tiny",
    "vocab_size": VOCABULARY,
    "dim": 32,
    "depth": 3,
    "heads": 4,
    "context": CONTEXT,
    "dropout": 0.0,
}
CHUNKS: list[Any] = [1, 2, 3, 7, [13] + [1] * 7, [1, 12, 7], [LENGTH]]


@pytest.fixture(scope="module")
def name(distinct_recipe: str) -> str:
    return distinct_recipe


@pytest.fixture(scope="module")
def model(name: str, rough: Callable[..., Decoder]) -> Decoder:
    return rough(build(name, **SHRUNK)).eval()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def targets(tokens: Tensor) -> Tensor:
    """The next token of each, with some that are not scored."""
    next_tokens = tokens.roll(-1, 1)
    next_tokens[:, -1] = -100
    next_tokens[1, 3:9] = -100
    return next_tokens


@pytest.fixture(scope="module")
def full(model: Decoder, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens)


@pytest.mark.parametrize("place", [1, 6, LENGTH - 1])
def test_future_tokens_cannot_change_past_logits(model: Decoder, tokens: Tensor, full: Tensor, place: int) -> None:
    changed = tokens.clone()
    changed[:, place:] = (changed[:, place:] + 1) % VOCABULARY
    after = model(changed)
    assert_close(after[:, :place], full[:, :place])
    assert (after[:, place] - full[:, place]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("place", [0, 6, LENGTH - 2])
def test_no_gradient_flows_from_logits_to_future_tokens(model: Decoder, tokens: Tensor, place: int) -> None:
    vectors: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        vectors.append(output.detach().requires_grad_())
        return vectors[-1]

    with model.embedding.register_forward_hook(keep):
        logits = model(tokens)
    (gradient,) = torch.autograd.grad(logits[:, place].square().sum(), vectors[0])
    assert (gradient[:, place + 1 :] == 0).all()
    assert gradient[:, place].abs().amax(-1).min() > 0


@pytest.mark.parametrize("chosen", [slice(0, 1), slice(1, 3), [2, 0, 1]])
def test_a_row_does_not_depend_on_its_neighbours(model: Decoder, tokens: Tensor, full: Tensor, chosen: Any) -> None:
    assert_close(model(tokens[chosen]), full[chosen])


def test_the_fast_path_equals_the_reference(model: Decoder, tokens: Tensor, full: Tensor) -> None:
    with reference_path():
        assert_close(model(tokens), full)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_fast_gradient_of_every_parameter_equals_the_reference(
    model: Decoder, tokens: Tensor, targets: Tensor, label_smoothing: float
) -> None:
    def gradients(fast: bool) -> tuple[Tensor, Sequence[Tensor | None]]:
        torch.manual_seed(0)
        with reference_path(not fast):
            total = model.loss(tokens, targets, label_smoothing=label_smoothing).total
        return total.detach(), torch.autograd.grad(total, list(model.parameters()), allow_unused=True)

    (fast_total, fast), (plain_total, plain) = gradients(True), gradients(False)
    assert_close(fast_total, plain_total)
    for (parameter, _), one, other in zip(model.named_parameters(), fast, plain, strict=True):
        assert one is not None and other is not None, f"{parameter} gets no gradient"
        assert_close(one, other, msg=lambda text, parameter=parameter: f"{parameter}: {text}")


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_cached_decoding_equals_the_full_forward(
    model: Decoder, tokens: Tensor, full: Tensor, chunks: Any, fast: bool
) -> None:
    cache = model.new_cache(len(tokens), LENGTH)
    parts = [model(part, cache) for part in tokens.split(chunks, dim=1)]
    assert_close(torch.cat(parts, dim=1), full)
    assert cache.lengths.tolist() == [LENGTH] * len(tokens)


def test_a_mixer_that_says_it_rewinds_forgets_what_it_is_told_to(model: Decoder, tokens: Tensor, full: Tensor) -> None:
    if not all(layer.supports_rollback for layer in model.layers):
        pytest.skip("the cache of a mixer of this recipe cannot be truncated")
    cache = model.new_cache(len(tokens), LENGTH)
    with torch.no_grad():
        model(tokens.flip(1), cache)  # another text from token 0 on, and longer than the one that follows
        cache.truncate(0)
        model(torch.cat((tokens[:, :8], tokens[:, :9]), 1), cache)
        cache.truncate(8)
        assert_close(model(tokens[:, 8:], cache), full[:, 8:])


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_rows_continue_through_the_cache_as_if_alone(
    model: Decoder, tokens: Tensor, full: Tensor, side: str, fast: bool
) -> None:
    cache = model.new_cache(len(tokens), CONTEXT)
    taken = [0, 0, 0]
    for counts in ([1, 6, 11], [1, 1, 1], [1, 1, 1], [3, 1, 2], [4, 4, 4], [0, 2, 1], [1, 0, 0]):
        logits, valid = _feed(model, tokens, taken, counts, side, cache)
        for row, count in enumerate(counts):
            assert_close(logits[row][valid[row]], full[row, taken[row] : taken[row] + count])
            taken[row] += count
        assert cache.lengths.tolist() == taken


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_without_a_cache(
    model: Decoder, tokens: Tensor, full: Tensor, side: str, fast: bool
) -> None:
    counts = [1, 6, 20]
    logits, valid = _feed(model, tokens, [0, 0, 0], counts, side, None)
    for row, count in enumerate(counts):
        assert_close(logits[row][valid[row]], full[row, :count])


def _feed(
    model: Decoder, tokens: Tensor, taken: list[int], counts: list[int], side: str, cache: Cache | None
) -> tuple[Tensor, Tensor]:
    """Give each row its next `counts` tokens, padded with tokens that would do harm if they were read."""
    width = max(counts)
    padded = torch.randint(VOCABULARY, (len(tokens), width))
    valid = torch.zeros(len(tokens), width, dtype=torch.bool)
    for row, count in enumerate(counts):
        places = slice(width - count, width) if side == "left" else slice(0, count)
        padded[row, places] = tokens[row, taken[row] : taken[row] + count]
        valid[row, places] = True
    return model(Batch(padded, padding_mask=None if valid.all() else valid), cache), valid


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_packed_documents_equal_separate_rows(model: Decoder, tokens: Tensor, targets: Tensor, fast: bool) -> None:
    lengths = [5, 1, 8, 6]
    documents = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).expand(len(tokens), -1)
    packed = model(Batch(tokens, document_ids=documents))
    nats = model.token_losses(Batch(tokens, targets, documents))
    parts = list(zip(tokens.split(lengths, 1), targets.split(lengths, 1), strict=True))
    assert_close(packed, torch.cat([model(document) for document, _ in parts], dim=1))
    assert_close(nats, torch.cat([model.token_losses(document, aims) for document, aims in parts], dim=1))


@torch.no_grad()
def test_packed_documents_may_be_padded_anywhere(model: Decoder, tokens: Tensor) -> None:
    valid = torch.ones(1, LENGTH, dtype=torch.bool)
    valid[0, [0, 1, 6, 11, 12, 19]] = False
    documents = torch.tensor([[0] * 6 + [1] * 6 + [2] * 8])
    logits = model(Batch(tokens[:1], None, documents, valid))
    for number in range(3):
        real = valid & (documents == number)
        assert_close(logits[real], model(tokens[:1][real][None])[0])


@torch.no_grad()
def test_token_losses_are_minus_log_softmax_of_the_logits(
    model: Decoder, tokens: Tensor, targets: Tensor, full: Tensor
) -> None:
    nats = model.token_losses(tokens, targets)
    scored = targets != -100
    expected = -full.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    assert_close(nats[scored], expected[scored])
    assert (nats[~scored] == 0).all()


def test_the_loss_is_the_mean_over_the_scored_targets(model: Decoder, tokens: Tensor, targets: Tensor) -> None:
    found = model.loss(tokens, targets)
    nats = model.token_losses(tokens, targets)
    assert_close(found.parts["next_token"].detach(), nats.sum() / (targets != -100).sum())
    assert found.total.requires_grad
    documents = (torch.arange(LENGTH) // 6).expand_as(tokens)
    nats = model.token_losses(Batch(tokens, targets, documents))
    packed = model.loss(Batch(tokens, targets, documents)).parts["next_token"].detach()
    assert_close(packed, nats.sum() / (targets != -100).sum())
    nothing = model.loss(tokens, torch.full_like(targets, -100))
    assert nothing.parts["next_token"] == 0
    assert nothing.total.isfinite()


def test_label_smoothing_mixes_in_all_tokens_alike(
    model: Decoder, tokens: Tensor, targets: Tensor, full: Tensor
) -> None:
    nats = -full.log_softmax(-1)[targets != -100]
    aims = targets[targets != -100]
    expected = 0.9 * nats.gather(-1, aims[:, None]).mean() + 0.1 * nats.mean()
    assert_close(model.loss(tokens, targets, label_smoothing=0.1).parts["next_token"].detach(), expected)


def test_loss_and_score_never_hold_the_logits_of_a_whole_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocabulary = 192, 2048
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 16 * vocabulary)
    monkeypatch.setattr(loss, "MIN_CHUNK_ROWS", 16)
    model = build(name, **{**SHRUNK, "vocab_size": vocabulary})
    tokens = torch.randint(vocabulary, (rows // 16, 16))
    with LargestTensor() as largest:
        model.loss(tokens, tokens).total.backward()
        model.token_losses(tokens, tokens)
    assert 16 * vocabulary <= largest.numbers < rows * vocabulary / 2


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operator makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_a_saved_model_gives_the_same_logits(name: str, tokens: Tensor, rough: Any, tmp_path: Path) -> None:
    model = rough(build(name, **SHRUNK), torch.float32).eval()
    save(model, tmp_path / "model")
    again = load(tmp_path / "model").eval()
    assert again.recipe == model.recipe
    assert torch.equal(again(tokens), model(tokens))


def test_the_seed_alone_decides_the_weights(name: str) -> None:
    before = torch.get_rng_state()
    one = build(name, **SHRUNK, seed=3).state_dict()
    torch.rand(5)
    same, other = build(name, **SHRUNK, seed=3).state_dict(), build(name, **SHRUNK, seed=4).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    torch.set_rng_state(before)
    build(name, **SHRUNK)
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_counted_without_allocating_equal_the_live_ones(model: Decoder) -> None:
    with torch.device("meta"):
        counted = Decoder(model.recipe).parameter_counts()
    assert counted == model.parameter_counts()
    assert counted["total"] == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    assert counted["non_embedding"] < counted["total"]


@pytest.mark.parametrize("capacity", [1, 16, CONTEXT])
def test_the_cache_holds_exactly_the_numbers_that_the_mixers_declare(model: Decoder, capacity: int) -> None:
    cache = model.new_cache(3, capacity)
    live = sum(buffer.numel() for layer in cache.layers for buffer in layer.values())
    assert live == 3 * model.kv_elements(capacity)
    assert cache.bytes() == live * model.embedding.weight.element_size()
    assert all(buffer.shape[0] == 3 for layer in cache.layers for buffer in layer.values())


def test_training_costs_three_forward_passes_per_token(model: Decoder) -> None:
    with torch.device("meta"):
        tokens = torch.zeros(1, CONTEXT, dtype=torch.long)
        with FlopCounterMode(display=False) as forward:
            Decoder(model.recipe).loss(tokens, tokens)
    assert training_flops_per_token(model.recipe, CONTEXT) == pytest.approx(
        3 * forward.get_total_flops() / CONTEXT, rel=0.15
    )


@torch.no_grad()
def test_greedy_generation_is_the_argmax_of_the_full_forward(model: Decoder, tokens: Tensor) -> None:
    prompts = [tokens[0, :1].tolist(), tokens[1, :5].tolist(), tokens[2, :LENGTH].tolist()]
    expected = []
    for prompt in prompts:
        row = list(prompt)
        while len(row) < min(len(prompt) + 8, CONTEXT):
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
        expected.append(row[len(prompt) :])
    assert generate(model, prompts, max_new_tokens=8, temperature=0) == expected
