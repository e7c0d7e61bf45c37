"""Attention in blocks within a window, against attention under the whole mask that defines it."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from litmus.nn import ForwardContext, Keys, Window, attend, attend_window, reference_path

HEADS, GROUPS, WIDTH = 4, 2, 6


def packed(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Positions and document numbers (1, T) of documents side by side."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    return positions[None], torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]


def by_definition(q: Tensor, k: Tensor, v: Tensor, keys: Keys, window: Window, query_scale: Tensor | None) -> Tensor:
    """Each query's keys listed one by one."""
    length, places = q.shape[1], keys.positions.shape[1]
    mask = torch.zeros(len(q), 1, length, places, dtype=torch.bool)
    texts = torch.zeros_like(keys.positions) if keys.documents is None else keys.documents
    for row, t, key in itertools.product(range(len(q)), range(length), range(places)):
        query = places - length + t
        here = min(row, len(keys.positions) - 1)
        same = texts[min(row, len(texts) - 1), query] == texts[min(row, len(texts) - 1), key]
        distance = keys.positions[here, query] - keys.positions[here, key]
        near = distance < window.size or keys.positions[here, key] < window.sinks
        mask[row, 0, t, key] = same and key <= query and near
    with reference_path():
        return attend(q, k, v, mask, query_scale)


def random_inputs(batch: int, queries: int, keys: int) -> list[Tensor]:
    q = torch.randn(batch, queries, HEADS, WIDTH, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(batch, keys, GROUPS, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return [q, k, v]


def same_forward_and_gradient(inputs: list[Tensor], keys: Keys, window: Window, block: int, factored: bool) -> None:
    q = inputs[0]
    query_scale = torch.rand(1, q.shape[1], HEADS, dtype=torch.float64, requires_grad=True) if factored else None
    leaves = inputs if query_scale is None else [*inputs, query_scale]
    ctx = ForwardContext(keys.positions[:, -q.shape[1] :], document_ids=keys.documents)
    fast = attend_window(*inputs, keys, window, ctx, query_scale, block=block)
    plain = by_definition(*inputs, keys, window, query_scale)
    upstream = torch.randn_like(plain)
    assert_close(fast, plain)
    for one, other in zip(*(torch.autograd.grad(y, leaves, upstream) for y in (fast, plain)), strict=True):
        assert_close(one, other)


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 6), st.integers(1, 9), st.booleans())
def test_blocks_of_a_text_equal_the_whole_mask(length: int, size: int, sinks: int, block: int, factored: bool) -> None:
    keys = Keys(torch.arange(length)[None])
    same_forward_and_gradient(random_inputs(2, length, length), keys, Window(size, sinks), block, factored)


@pytest.mark.slow
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 14), st.integers(0, 4), st.integers(1, 7))
def test_blocks_of_packed_documents_equal_the_whole_mask(lengths: list[int], size: int, sinks: int, block: int) -> None:
    rows = [packed(lengths), packed(lengths[::-1])]
    keys = Keys(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    inputs = random_inputs(2, sum(lengths), sum(lengths))
    same_forward_and_gradient(inputs, keys, Window(size, sinks), block, factored=False)


@given(st.integers(0, 30), st.integers(1, 20), st.integers(1, 12), st.integers(0, 4), st.integers(1, 7))
def test_keys_of_earlier_tokens_may_stand_before_those_of_the_queries(
    older: int, length: int, size: int, sinks: int, block: int
) -> None:
    old = torch.arange(older)
    kept = old[(old < sinks) | (old > older - size)]  # what no window reaches any more is gone
    keys = Keys(torch.cat((kept, torch.arange(older, older + length)))[None])
    inputs = random_inputs(1, length, keys.positions.shape[1])
    same_forward_and_gradient(inputs, keys, Window(size, sinks), block, factored=True)


def test_a_window_of_the_whole_text_is_causal_attention() -> None:
    q, k, v = random_inputs(2, 150, 150)
    keys = Keys(torch.arange(150)[None])
    with reference_path():
        whole = attend(q, k, v, "causal")
    assert_close(attend_window(q, k, v, keys, Window(150), ForwardContext(keys.positions)), whole)
    assert_close(attend_window(q, k, v, keys, Window(1, sinks=150), ForwardContext(keys.positions)), whole)


def test_a_window_of_one_token_reads_itself() -> None:
    q, k, v = random_inputs(1, 70, 70)
    keys = Keys(torch.arange(70)[None])
    y = attend_window(q, k, v, keys, Window(1), ForwardContext(keys.positions))
    assert_close(y, v.repeat_interleave(2, dim=2))


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operator makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("documents", [False, True])
def test_no_tensor_grows_with_the_square_of_the_length(documents: bool) -> None:
    largest = {}
    for length in (1024, 4096):
        keys = Keys(*packed([length // 2, length // 2])) if documents else Keys(torch.arange(length)[None])
        inputs = [torch.randn(1, length, 1, 8, requires_grad=True) for _ in range(3)]
        with LargestTensor() as seen:
            attend_window(*inputs, keys, Window(32, sinks=4), ForwardContext(keys.positions)).sum().backward()
        largest[length] = seen.numbers
    assert largest[4096] <= 4.1 * largest[1024]
