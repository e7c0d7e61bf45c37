"""The decoder: parameter counts of published models, what dropout touches, and what it measures about itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from litmus.diagnostics import layer_stats
from litmus.errors import BadInput
from litmus.model import Decoder, resolve
from litmus.nn import Batch

Small = Callable[..., Decoder]


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("super-small", 110_330_497),
        ("super-default", 405_288_401),
        ("super-large", 837_099_297),
        ("gpt2", 124_439_808),
    ],
)
def test_published_models_have_exactly_their_parameters(name: str, total: int) -> None:
    with torch.device("meta"):
        assert Decoder(resolve(name)).parameter_counts()["total"] == total


@pytest.mark.slow
@pytest.mark.parametrize("context", [1024, 2048, 4096])
@pytest.mark.parametrize("positions", ["none", "rope", "sinusoidal", "learned"])
@pytest.mark.parametrize("ssmax", [{}, None])
def test_the_super_sizes_take_every_position_encoding_and_context(
    ssmax: dict[str, object] | None, positions: str, context: int
) -> None:
    changes = {"positions.kind": positions, "context": context, "mixer.ssmax": ssmax}
    with torch.device("meta"):
        counts = Decoder(resolve("super-small", overrides=changes)).parameter_counts()
    scalars = 0 if ssmax is None else 6 * 8
    assert counts["total"] == 110_330_497 - 48 + scalars + (context * 768 if positions == "learned" else 0)


def test_non_embedding_parameters_leave_out_embedding_positions_and_head(small: Small) -> None:
    for name, outside in [("standard", 61 * 32), ("learned", 61 * 32 + 24 * 32), ("super-small", 2 * 61 * 32 + 61)]:
        counts = small(name).parameter_counts()
        assert counts["total"] - counts["non_embedding"] == outside


def test_a_tied_head_shares_the_embedding_and_is_listed_once(small: Small) -> None:
    tied, free = small("standard"), small("standard", overrides={"head.tied": False})
    assert tied.head.weight is tied.embedding.weight
    assert "head.weight" not in dict(tied.named_parameters())
    assert free.head.weight is not free.embedding.weight


def test_last_logits_are_those_after_the_last_or_the_chosen_token(small: Small, rough: Callable[..., Decoder]) -> None:
    model = rough(small("standard")).eval()
    tokens = torch.randint(61, (3, 9))
    logits = model(tokens)
    assert_close(model.last_logits(tokens), logits[:, -1])
    assert_close(model.last_logits(tokens, last=torch.tensor([0, 8, 3])), logits[[0, 1, 2], [0, 8, 3]])


def test_dropout_acts_in_training_and_never_in_evaluation(small: Small) -> None:
    model = small("standard", dropout=0.3)
    tokens = torch.randint(61, (2, 9))
    assert model.training
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_dropout_acts_on_the_embedding_too(small: Small) -> None:
    model = small("standard", dropout=0.4)
    entered: list[torch.Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda layer, inputs: entered.append(inputs[0]))
    model(torch.randint(61, (8, 24)))
    assert (entered[0] == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)


def test_attention_that_cannot_tell_keys_apart_has_the_entropy_of_their_number(small: Small) -> None:
    model = small("nope").double()
    with torch.no_grad():
        for layer in model.layers:
            layer.mixer.qkv.weight[:32] = 0
    length = 9
    expected = sum(math.log(t + 1) for t in range(length)) / length
    entropies = layer_stats(model, torch.randint(61, (2, length))).stats["attention_entropy"]
    assert entropies == pytest.approx(dict.fromkeys(range(3), expected), rel=1e-6)


def test_the_largest_activation_is_that_of_the_residual_stream_after_each_layer(small: Small) -> None:
    model, tokens, found = small("standard"), torch.randint(61, (2, 9)), []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, x: found.append(x.abs().max().item()))
    figures = layer_stats(model, tokens).stats
    assert figures["largest_activation"] == dict(enumerate(found[:3]))


def test_only_layers_with_gates_and_routes_tell_of_them(small: Small) -> None:
    tokens = torch.randint(61, (2, 9))
    assert "mean_gate" not in layer_stats(small("standard"), tokens).stats
    assert layer_stats(small("gated"), tokens).stats["mean_gate"] == pytest.approx(
        dict.fromkeys(range(3), 0.5), abs=0.05
    )


def test_figures_carry_the_number_of_their_layer(small: Small) -> None:
    """In a mixture of depths every second layer is routed, and tells nothing of its attention among few tokens."""
    figures = layer_stats(small("mod", depth=5), torch.randint(61, (2, 9))).stats
    assert list(figures["processed_share"]) == [1, 3]
    assert list(figures["attention_entropy"]) == [0, 2, 4]
    assert list(figures["largest_activation"]) == [0, 1, 2, 3, 4]


def test_observing_takes_one_pass(small: Small) -> None:
    passes: list[str] = []
    for name in ("standard", "moe", "worker"):
        model = small(name)
        model.embedding.register_forward_hook(lambda *_: passes.append("a pass"))
        layer_stats(model, torch.randint(61, (6, 9)))
    assert len(passes) == 3


def test_logits_start_near_the_uniform_distribution(small: Small) -> None:
    tokens = torch.randint(61, (4, 24))
    nats = small("standard").eval().token_losses(tokens, tokens.roll(-1, 1))
    assert nats.mean().item() == pytest.approx(math.log(61), abs=0.05)


def test_documents_cannot_be_packed_into_a_cache(small: Small) -> None:
    model = small("standard")
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(BadInput, match="packed documents cannot be decoded with a cache"):
        model(Batch(tokens, document_ids=tokens), model.new_cache(1, 4))


@pytest.mark.parametrize(("batch", "capacity"), [(0, 4), (2, 0), (-1, 4)])
def test_a_cache_must_hold_something(small: Small, batch: int, capacity: int) -> None:
    with pytest.raises(BadInput, match=f"a cache of {batch} rows x {capacity} tokens holds nothing"):
        small("standard").new_cache(batch, capacity)


@torch.no_grad()
def test_a_refused_step_leaves_the_cache_as_it_was(small: Small, rough: Callable[..., Decoder]) -> None:
    model = rough(small("standard")).eval()
    tokens = torch.randint(61, (2, 6))
    cache = model.new_cache(2, 6)
    model(tokens[:, :5], cache)
    with pytest.raises(BadInput, match="the cache holds 5 of 6 tokens and 2 more were given"):
        model(tokens[:, :2], cache)
    assert_close(model(tokens[:, 5:], cache), model(tokens)[:, 5:])


def test_learned_positions_bound_the_sequence_with_and_without_a_cache(small: Small) -> None:
    model = small("learned")
    with pytest.raises(BadInput, match=r"learned positions end at 24 tokens.*the sequence has 25"):
        model(torch.zeros(1, 25, dtype=torch.long))
    cache = model.new_cache(1, 30)
    model(torch.zeros(1, 24, dtype=torch.long), cache)
    with pytest.raises(BadInput, match="the sequence has 25"):
        model(torch.zeros(1, 1, dtype=torch.long), cache)
