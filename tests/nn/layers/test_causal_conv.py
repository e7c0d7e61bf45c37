"""The causal convolution: only what came before in the same text, in whatever pieces it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from litmus.nn import ForwardContext, reference_path
from litmus.nn.layers.causal_conv import CausalConv

DIM = 3


def conv_of(width: int) -> CausalConv:
    conv = CausalConv(DIM, width).double()
    torch.nn.init.normal_(conv.bias)
    return conv


def whole(conv: CausalConv, x: Tensor, ctx: ForwardContext, history: Tensor | None = None) -> Tensor:
    return conv.here(x) + conv.before(x, ctx, history)


def row(length: int, **changes: object) -> ForwardContext:
    return ForwardContext(torch.arange(length)[None], 0, **changes)  # type: ignore[arg-type]


@given(width=st.integers(1, 5), length=st.integers(1, 9), fast=st.booleans())
def test_it_is_the_depthwise_convolution_of_a_row_padded_on_the_left(width: int, length: int, fast: bool) -> None:
    conv, x = conv_of(width), torch.randn(1, length, DIM, dtype=torch.float64)
    filters = conv.weight.flip(0).permute(2, 1, 0)
    expected = F.conv1d(F.pad(x.mT, (width - 1, 0)), filters, conv.bias, groups=DIM).mT
    with reference_path(not fast):
        assert_close(whole(conv, x, row(length)), expected)


@given(width=st.integers(1, 4), data=st.data())
def test_pieces_with_padding_anywhere_give_what_the_whole_gives(width: int, data: st.DataObject) -> None:
    conv, x = conv_of(width), torch.randn(2, 8, DIM, dtype=torch.float64)
    expected = whole(conv, x, replace(row(8), positions=torch.arange(8).expand(2, -1)))
    history, taken, found = torch.zeros(2, width - 1, DIM, dtype=torch.float64), [0, 0], torch.zeros_like(x)
    while min(taken) < 8:
        flags = data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2))
        valid = torch.tensor(flags)
        valid &= valid.cumsum(1) <= 8 - torch.tensor(taken)[:, None]
        if not valid.any():
            valid = torch.tensor([[True, False, False]] * 2) & (torch.tensor(taken) < 8)[:, None]
        positions = torch.tensor(taken)[:, None] + (valid.cumsum(1) - 1).clamp(min=0)
        given_x = torch.full((2, 3, DIM), torch.pi, dtype=torch.float64)
        for b in range(2):
            given_x[b, valid[b]] = x[b, positions[b, valid[b]]]
        result = whole(conv, given_x, ForwardContext(positions, None, valid), history)
        for b in range(2):
            found[b, positions[b, valid[b]]] = result[b, valid[b]]
            taken[b] += int(valid[b].sum())
    assert_close(found, expected)


@pytest.mark.parametrize("fast", [True, False])
def test_packed_documents_begin_with_nothing_before_them(fast: bool) -> None:
    conv, x = conv_of(3), torch.randn(1, 7, DIM, dtype=torch.float64)
    positions, documents = torch.tensor([[0, 1, 2, 0, 0, 1, 2]]), torch.tensor([[0, 0, 0, 1, 2, 2, 2]])
    packed = whole(conv, x, ForwardContext(positions, None, document_ids=documents))
    alone = [whole(conv, part, row(part.shape[1])) for part in x.split([3, 1, 3], dim=1)]
    assert_close(packed, torch.cat(alone, dim=1))


def test_its_weight_is_no_matrix_and_its_bias_starts_at_zero() -> None:
    conv = CausalConv(200, 4)
    assert conv.weight.ndim == 3 and conv.lags == 3
    assert 0.45 < conv.weight.abs().max() <= 0.5 and not conv.bias.any()
