"""The sliding-window mixer: what it reads, what it caches, and how it counts keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from litmus.errors import BadInput
from litmus.model import Decoder, build, resolve
from litmus.nn import Batch, ForwardContext, LayerContext, SSMaxConfig, WindowAttention, WindowConfig, reference_path

SIZES: dict[str, Any] = {"vocab_size": 61, "dim": 32, "depth": 2, "heads": 4, "context": 24}


@pytest.fixture(scope="module")
def make(rough: Callable[..., Decoder]) -> Callable[..., Decoder]:
    """A small model with the given window and sinks."""
    return lambda **options: rough(
        build("window", overrides={f"mixer.{key}": value for key, value in options.items()}, **SIZES)
    ).eval()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("sinks", "read"), [(0, {7, 8, 9}), (2, {0, 1, 7, 8, 9})])
def test_a_token_reads_its_window_and_the_sinks_and_nothing_else(
    sinks: int,
    read: set[int],
    fast: bool,
    layer_context: Callable[..., LayerContext],
    rough: Callable[..., WindowAttention],
) -> None:
    module = rough(WindowConfig(window=3, sinks=sinks).build(layer_context()))
    x = torch.randn(1, 12, 16, dtype=torch.float64, requires_grad=True)
    y = module(x, ForwardContext(torch.arange(12)[None]))
    (gradient,) = torch.autograd.grad(y[0, 9].square().sum(), x)
    assert set(gradient[0].abs().amax(-1).nonzero()[:, 0].tolist()) == read


def test_the_window_defaults_to_a_quarter_of_the_context(layer_context: Callable[..., LayerContext]) -> None:
    assert WindowConfig().build(layer_context(context=40)).window.size == 10
    assert WindowConfig().build(layer_context(context=2)).window.size == 1


def test_a_window_of_the_whole_context_is_attention(
    make: Callable[..., Decoder], rough: Callable[..., Decoder]
) -> None:
    tokens = torch.randint(61, (2, 24))
    attention = rough(build("standard", **SIZES)).eval()
    for options in ({"window": 24}, {"window": 5, "sinks": 19}):
        assert_close(make(**options)(tokens), attention(tokens))


@given(st.integers(1, 9), st.integers(0, 5), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
@settings(max_examples=30)
def test_decoding_through_the_ring_equals_the_full_pass(
    make: Callable[..., Decoder], window: int, sinks: int, chunks: list[int], fast: bool
) -> None:
    model, length = make(window=window, sinks=sinks), sum(chunks)
    tokens = torch.randint(61, (2, length))
    cache = model.new_cache(2, length)
    with torch.no_grad():
        with reference_path(not fast):
            parts = [model(part, cache) for part in tokens.split(chunks, dim=1)]
        with reference_path(fast):
            assert_close(torch.cat(parts, dim=1), model(tokens))


@given(
    st.integers(1, 6),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=6),
)
@settings(max_examples=30)
def test_rows_of_different_lengths_decode_as_if_alone(
    make: Callable[..., Decoder], window: int, sinks: int, rounds: list[tuple[int, int, bool]]
) -> None:
    model = make(window=window, sinks=sinks)
    tokens = torch.randint(61, (2, 36))
    cache = model.new_cache(2, 40)
    taken = [0, 0]
    with torch.no_grad():
        full = model(tokens)
        for *counts, left in rounds:
            width = max(*counts, 1)
            given_tokens, valid = torch.randint(61, (2, width)), torch.zeros(2, width, dtype=torch.bool)
            for row, count in enumerate(counts):
                places = slice(width - count, width) if left else slice(0, count)
                given_tokens[row, places] = tokens[row, taken[row] : taken[row] + count]
                valid[row, places] = True
            logits = model(Batch(given_tokens, padding_mask=valid), cache)
            for row, count in enumerate(counts):
                assert_close(logits[row][valid[row]], full[row, taken[row] : taken[row] + count])
                taken[row] += count


def test_the_cache_stops_growing_at_the_window_and_its_sinks(make: Callable[..., Decoder]) -> None:
    model = make(window=6, sinks=2)
    numbers = [model.kv_elements(capacity) for capacity in (4, 8, 9, 1000)]
    assert numbers == [4 * 2 * 2 * 32, *[8 * 2 * 2 * 32] * 3]
    assert model.new_cache(1, 1000).bytes() == numbers[-1] * 8


def test_ssmax_counts_the_keys_that_a_token_reads(layer_context: Callable[..., LayerContext]) -> None:
    module = WindowConfig(window=3, sinks=2, ssmax=SSMaxConfig(learned=False)).build(layer_context()).double()
    with torch.no_grad():
        module.qkv.weight.copy_(torch.randn(48, 16))
    x = torch.randn(1, 9, 16, dtype=torch.float64)
    ctx = ForwardContext(torch.arange(9)[None])
    q, k, v = module.qkv_proj(x, ctx)
    reads = [0, 1, 5, 6, 7]
    scores = torch.einsum("hd,shd->hs", q[0, 7], k[0, reads]) / 2 * math.log(len(reads))
    expected = torch.einsum("hs,shd->hd", scores.softmax(-1), v[0, reads])
    assert_close(module(x, ctx)[0, 7], module.out(expected.flatten()))


def test_the_first_token_has_no_weight_beyond_the_window_unless_it_is_a_sink(
    layer_context: Callable[..., LayerContext],
) -> None:
    x, first = torch.randn(1, 30, 16), {}
    for sinks in (0, 1):
        observed: dict[str, list[Tensor]] = {}
        module = WindowConfig(window=4, sinks=sinks).build(layer_context())
        torch.nn.init.zeros_(module.qkv.weight)
        module(x, ForwardContext(torch.arange(30)[None], observed=observed))
        first[sinks] = observed["first_token_attention"][0].item() * 30
    near = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert first == pytest.approx({0: near, 1: near + 26 / 5})


@pytest.mark.parametrize(("options", "sentence"), [({"window": 0}, "window"), ({"sinks": -1}, "sinks")])
def test_a_window_that_reads_nothing_is_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadInput, match=f"mixer 'window': {sentence}"):
        resolve({"base": "window", "mixer": options})
