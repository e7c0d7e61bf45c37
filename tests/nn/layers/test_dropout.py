"""Dropout by drawn bits is dropout: its rate, its mean, its gradient, its repeatability."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from litmus.nn.layers.dropout import Dropout


def dropped(p: float, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return Dropout(p).train()(x)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_elements_vanish_at_the_rate_and_the_others_make_up_for_it(p: float, dtype: torch.dtype) -> None:
    y = dropped(p, torch.ones(1000, 1001, dtype=dtype))
    gone = (y == 0).double().mean().item()
    assert abs(gone - p) < 5 * (p * (1 - p) / y.numel()) ** 0.5 + 2**-17
    assert y.dtype == dtype
    torch.testing.assert_close(y[y != 0].unique().double(), torch.tensor([1 / (1 - p)]).double(), rtol=1e-2, atol=0)


def test_neighbours_are_dropped_independently() -> None:
    gone = (dropped(0.5, torch.ones(2**20)) == 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8, 64):
        assert abs((gone[distance:] * gone[:-distance]).mean().item()) < 5 * 0.25 / 2**10


@given(shape=st.lists(st.integers(0, 5), max_size=4), seed=st.integers(0, 2**31))
def test_any_shape_is_repeatable_from_the_seed(shape: list[int], seed: int) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(dropped(0.3, x, seed), dropped(0.3, x, seed))
    assert dropped(0.3, x, seed).shape == x.shape


def test_the_gradient_passes_where_the_value_does() -> None:
    x = torch.randn(40, 50, dtype=torch.float64, requires_grad=True)
    y = dropped(0.25, x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)


@pytest.mark.parametrize(("p", "kept"), [(0.0, True), (1.0, False), (1e-9, True)])
def test_the_ends_drop_nothing_or_everything(p: float, kept: bool) -> None:
    x = torch.randn(300)
    torch.testing.assert_close(dropped(p, x), x if kept else torch.zeros(300))


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.randn(300)
    assert Dropout(0.9).eval()(x) is x
