"""How linear layers start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litmus.nn import LayerContext, linear, residual_linear


def test_linear_layers_start_at_0_02_without_bias() -> None:
    layer = linear(300, 300, bias=True)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0, abs=5e-4)
    assert (layer.bias == 0).all()
    assert linear(3, 3).bias is None


def test_writes_into_the_residual_stream_start_smaller_by_the_root_of_their_number(
    layer_context: Callable[..., LayerContext],
) -> None:
    layer = residual_linear(300, layer_context(dim=300, depth=8))
    assert (layer.in_features, layer.out_features) == (300, 300)
    assert layer.weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)
