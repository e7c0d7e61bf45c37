"""RMSNorm and LayerNorm against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from litmus.nn import LayerContext, RMSNorm
from litmus.nn.layers.norms import LayerNormConfig, RMSNormConfig


@given(width=st.integers(1, 40), eps=st.sampled_from([1e-5, 1e-2]), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_rmsnorm_divides_by_the_root_mean_square(width: int, eps: float, scale: float) -> None:
    norm = RMSNorm(width, eps).double()
    torch.nn.init.normal_(norm.weight)
    x = scale * torch.randn(2, 3, width, dtype=torch.float64)
    assert_close(norm(x), x / (x.square().sum(-1, keepdim=True) / width + eps).sqrt() * norm.weight)


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_centres_divides_by_the_deviation_and_shifts(
    bias: bool, layer_context: Callable[..., LayerContext]
) -> None:
    norm = LayerNormConfig(bias=bias, eps=1e-3).build(layer_context()).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    assert_close(norm(x), expected + norm.bias if bias else expected)
    assert (norm.bias is not None) == bias


def test_a_norm_is_built_for_the_width_of_the_stream_or_any_other(layer_context: Callable[..., LayerContext]) -> None:
    for config in (RMSNormConfig(eps=1e-3), LayerNormConfig(eps=1e-3)):
        assert config.build(layer_context()).weight.shape == (16,)
        assert config.build(layer_context(dim=5)).weight.shape == (5,)
        assert config.build(layer_context(dim=5)).eps == 1e-3


def test_a_fresh_rmsnorm_has_weight_1() -> None:
    assert torch.equal(RMSNorm(4).weight, torch.ones(4))
