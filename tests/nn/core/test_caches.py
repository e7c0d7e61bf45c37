"""The cache: what is written where, what does not fit, and what it weighs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn import Cache, ForwardContext, update_kv

CPU = torch.device("cpu")


def test_a_full_cache_says_how_much_room_is_needed() -> None:
    cache = Cache([], batch=2, capacity=5, device=CPU)
    assert cache.reserve(4) == 4
    cache.advance(4, None)
    with pytest.raises(BadInput, match=r"holds 4 of 5 tokens and 2 more were given; .*capacity=6"):
        cache.reserve(2)
    assert cache.reserve(1) == 5


def test_padding_takes_no_room() -> None:
    cache = Cache([], batch=2, capacity=5, device=CPU)
    cache.reserve(4)
    cache.advance(4, torch.tensor([[True, True, False, False], [True, False, False, False]]))
    assert cache.lengths.tolist() == [2, 1]
    assert cache.reserve(3) == 5


def test_rows_that_agree_have_a_common_start_until_padding_parts_them() -> None:
    cache = Cache([], batch=2, capacity=9, device=CPU)
    cache.advance(3, None)
    assert (cache.start, cache.lengths.tolist()) == (3, [3, 3])
    cache.advance(1, torch.tensor([[True], [False]]))
    assert (cache.start, cache.lengths.tolist()) == (None, [4, 3])
    cache.advance(2, None)
    assert (cache.start, cache.lengths.tolist()) == (None, [6, 5])


def test_the_bytes_are_those_of_the_live_buffers() -> None:
    layers = [{"k": torch.zeros(2, 7, 3), "v": torch.zeros(2, 7, 3, dtype=torch.bfloat16)}, {"c": torch.zeros(2, 1)}]
    assert Cache(layers, batch=2, capacity=7, device=CPU).bytes() == 2 * 7 * 3 * (4 + 2) + 2 * 4


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    width=st.integers(1, 4),
    padded=st.booleans(),
    data=st.data(),
)
def test_a_write_touches_the_slots_of_its_tokens_and_no_others(
    lengths: list[int], width: int, padded: bool, data: st.DataObject
) -> None:
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    real = [data.draw(flags) if padded else [True] * width for _ in lengths]
    valid = torch.tensor(real)
    positions = torch.tensor(lengths)[:, None] + (valid.cumsum(1) - 1).clamp(min=0)
    buffer = -torch.rand(len(lengths), 10, 2)
    new = torch.rand(len(lengths), width, 2)
    expected = buffer.clone()
    for row, start in enumerate(lengths):
        if width == 1:
            expected[row, start] = new[row, 0]  # without a token: the slot that the next one will take
        for column, place in zip([c for c in range(width) if real[row][c]], range(start, 99), strict=False):
            expected[row, place] = new[row, column]
    read = update_kv(buffer, new, ForwardContext(positions, None, valid if padded else None, kv_len=9))
    assert torch.equal(buffer, expected)
    assert torch.equal(read, expected[:, :9])


def test_a_part_is_the_same_cache_seen_through_some_rows() -> None:
    cache = Cache([{"k": torch.zeros(4, 3, 2)}], batch=4, capacity=3, device=CPU)
    part = cache.slice_rows(1, 3)
    part.layers[0]["k"].fill_(1.0)
    part.advance(2, None)
    assert cache.lengths.tolist() == [0, 2, 2, 0]
    assert cache.layers[0]["k"].sum((1, 2)).tolist() == [0, 6, 6, 0]
    cache.reset_rows(slice(2, 3))
    assert part.lengths.tolist() == [2, 0]
    assert part.layers[0]["k"].sum((1, 2)).tolist() == [6, 0]


def test_rows_that_agree_are_written_as_one_block() -> None:
    buffer, new = torch.zeros(2, 6, 3), torch.rand(2, 2, 3)
    read = update_kv(buffer, new, ForwardContext(torch.tensor([[3, 4], [3, 4]]), start_pos=3, kv_len=5))
    assert torch.equal(buffer[:, 3:5], new)
    assert (buffer[:, [0, 1, 2, 5]] == 0).all()
    assert read.shape == (2, 5, 3)


def test_what_is_written_takes_the_dtype_of_the_buffer(ctx: Callable[..., ForwardContext]) -> None:
    buffer: Tensor = torch.zeros(1, 4, 2, dtype=torch.bfloat16)
    assert update_kv(buffer, torch.ones(1, 1, 2), ctx([[2]], kv_len=3)).dtype == torch.bfloat16
    assert buffer[0, :, 0].tolist() == [0, 0, 1, 0]


def test_selected_rows_may_repeat_change_places_or_go() -> None:
    cache = Cache([{"k": torch.arange(3.0)[:, None]}, {"v": torch.arange(3.0, 6)[:, None]}], 3, 9, CPU)
    cache.lengths = torch.tensor([1, 2, 3])
    cache.reorder(torch.tensor([2, 0, 2, 2]))
    assert cache.layers[0]["k"][:, 0].tolist() == [2, 0, 2, 2]
    assert cache.layers[1]["v"][:, 0].tolist() == [5, 3, 5, 5]
    assert cache.lengths.tolist() == [3, 1, 3, 3]


def test_a_selected_row_that_is_written_leaves_its_copy_alone() -> None:
    cache = Cache([{"k": torch.zeros(1, 2)}], 1, 2, CPU)
    cache.reorder(torch.tensor([0, 0]))
    cache.layers[0]["k"][0] = 1.0
    assert cache.layers[0]["k"].tolist() == [[1, 1], [0, 0]]


def test_a_rewound_cache_has_room_again() -> None:
    cache = Cache([], batch=2, capacity=5, device=CPU)
    cache.advance(5, None)
    cache.truncate(3)
    assert (cache.start, cache.used, cache.lengths.tolist()) == (3, 3, [3, 3])
    assert cache.reserve(2) == 5
