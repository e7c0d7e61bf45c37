"""Dense feedforwards against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from litmus.nn import FeedforwardConfig, ForwardContext, LayerContext
from litmus.nn.layers.feedforwards import GeluConfig, Relu2Config, SwigluConfig, swiglu_hidden

Build = Callable[..., Any]
HIDDEN = 12


def built(
    config: FeedforwardConfig, layer_context: Callable[..., LayerContext], rough: Build
) -> tuple[Any, Tensor, Tensor]:
    """The module, an input (1, 3, 16), and its output."""
    module = rough(config.build(layer_context()))
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    return module, x, module(x, ForwardContext(torch.arange(3)[None]))


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_gelu_weighs_by_the_normal_distribution(
    bias: bool, layer_context: Callable[..., LayerContext], rough: Build
) -> None:
    module, x, found = built(GeluConfig(hidden=HIDDEN, bias=bias), layer_context, rough)
    inner = linear(module.up, x)
    assert_close(found, linear(module.down, inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))))


def test_gelu_has_the_tanh_form_of_gpt2(layer_context: Callable[..., LayerContext], rough: Build) -> None:
    module, x, found = built(GeluConfig(hidden=HIDDEN, approximate="tanh"), layer_context, rough)
    inner = linear(module.up, x)
    squashed = torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3))
    assert_close(found, linear(module.down, 0.5 * inner * (1 + squashed)))


@pytest.mark.parametrize("bias", [True, False])
def test_relu2_squares_what_is_positive(bias: bool, layer_context: Callable[..., LayerContext], rough: Build) -> None:
    module, x, found = built(Relu2Config(hidden=HIDDEN, bias=bias), layer_context, rough)
    inner = linear(module.up, x)
    assert_close(found, linear(module.down, torch.where(inner > 0, inner * inner, 0)))


@pytest.mark.parametrize("bias", [True, False])
def test_swiglu_gates_by_silu(bias: bool, layer_context: Callable[..., LayerContext], rough: Build) -> None:
    module, x, found = built(SwigluConfig(hidden=HIDDEN, bias=bias), layer_context, rough)
    inner = linear(module.gate_up, x)
    gate, up = inner[..., :HIDDEN], inner[..., HIDDEN:]
    assert_close(found, linear(module.down, gate / (1 + (-gate).exp()) * up))


def test_the_default_widths_are_4_dim_or_as_many_parameters(layer_context: Callable[..., LayerContext]) -> None:
    assert GeluConfig().build(layer_context()).up.out_features == 64
    assert Relu2Config().build(layer_context()).up.out_features == 64
    assert SwigluConfig().build(layer_context(dim=96)).down.in_features == 256


@pytest.mark.parametrize("dim", [12, 96, 128, 768, 1000])
def test_a_swiglu_has_about_the_parameters_of_a_4_dim_feedforward(dim: int) -> None:
    hidden = swiglu_hidden(dim)
    assert hidden % 32 == 0
    assert 0 <= 3 * dim * hidden - 8 * dim * dim < 3 * dim * 32


@pytest.mark.parametrize("config", [GeluConfig(), Relu2Config(), SwigluConfig()])
def test_dropout_falls_on_the_inner_values_in_training_alone(
    config: FeedforwardConfig, layer_context: Callable[..., LayerContext]
) -> None:
    module = config.build(layer_context(dropout=0.5))
    x, ctx = torch.randn(1, 3, 16), ForwardContext(torch.arange(3)[None])
    assert not torch.equal(module(x, ctx), module(x, ctx))
    module.eval()
    assert torch.equal(module(x, ctx), module(x, ctx))
