"""Attention of queries that stand apart: the fast path is the definition, for any length, distance and phase."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from litmus.nn import ForwardContext, reference_path
from litmus.nn.attention.spaced import attend_at
from litmus.nn.worker.block import workers
from litmus.nn.worker.streams import sampled

HEADS, GROUPS, WIDTH = 4, 2, 8


def read_one_by_one(asked: Tensor, q: Tensor, k: Tensor, v: Tensor, own: tuple[Tensor, Tensor] | None) -> Tensor:
    """The definition, for queries (N, H, D) at indices `asked` of the keys (S, G, D) of one row."""
    read = []
    for n, place in enumerate(asked.tolist()):
        keys, values = (x[: place + 1].clone() for x in (k, v))
        if own is not None:
            keys, values = torch.cat((keys[:-1], own[0][n, None])), torch.cat((values[:-1], own[1][n, None]))
        heads = [(q[n, h], keys[:, h * GROUPS // HEADS], values[:, h * GROUPS // HEADS]) for h in range(HEADS)]
        read.append(torch.stack([(key @ one / WIDTH**0.5).softmax(0) @ value for one, key, value in heads]))
    return torch.stack(read)


@pytest.mark.slow
@settings(max_examples=30)
@given(length=st.integers(1, 300), interval=st.integers(1, 9), phase=st.integers(0, 8), own=st.booleans())
def test_the_fast_path_equals_the_definition_forward_and_gradient(
    length: int, interval: int, phase: int, own: bool
) -> None:
    generator = torch.Generator().manual_seed(length)
    ctx = ForwardContext(torch.arange(length).expand(2, -1))
    phases = torch.tensor([[phase % interval], [(phase + 1) % interval]])
    group = sampled(ctx, workers(ctx, interval, phases), interval).groups[0]

    def numbers(count: int, heads: int) -> Tensor:
        return torch.randn(2, count, heads, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)

    count = group.queries.index.shape[1]
    q, k, v = numbers(count, HEADS), numbers(length, GROUPS), numbers(length, GROUPS)
    own_k, own_v = numbers(count, GROUPS), numbers(count, GROUPS)
    pair = (own_k, own_v) if own else None
    inputs = [q, k, v, own_k, own_v] if own else [q, k, v]
    results = []
    for fast in (True, False):
        with reference_path(not fast):
            read = attend_at(group.queries, q, k, v, ctx, own=pair)
        results.append([read.detach(), *torch.autograd.grad(read.square().sum(), inputs)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other)
    for row in range(2):
        mine = None if pair is None else (own_k[row], own_v[row])
        expected = read_one_by_one(group.queries.index[row], q[row], k[row], v[row], mine)
        assert_close(results[0][0][row], expected.detach())


def test_no_tensor_of_length_times_length_is_made() -> None:
    length, interval = 2048, 4
    ctx = ForwardContext(torch.arange(length)[None])
    queries = sampled(ctx, workers(ctx, interval), interval).groups[0].queries
    q, k, v = (torch.randn(1, count, 1, 4, requires_grad=True) for count in (length // interval, length, length))
    with Largest() as largest:
        attend_at(queries, q, k, v, ctx, own=(q, q)).sum().backward()
    assert largest.numbers < length * length / 8


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operator makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_padding_and_other_documents_are_not_read() -> None:
    ctx = ForwardContext(
        torch.tensor([[0, 0, 1, 2, 0, 1]]),
        None,
        padding_mask=torch.tensor([[False, True, True, True, True, True]]),
        document_ids=torch.tensor([[0, 0, 0, 0, 1, 1]]),
    )
    group = sampled(ctx, workers(ctx, 2), 2).groups[0]
    assert group.index is not None and group.index.tolist() == [[2, 5]]
    values = torch.eye(6, dtype=torch.float64)[None, :, None]
    alike = torch.zeros(1, 6, 1, 6, dtype=torch.float64)
    read = attend_at(group.queries, alike[:, :2], alike, values, ctx)
    assert_close(read[0, :, 0], torch.tensor([[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]], dtype=torch.float64))
