"""Linear layers with the initialization of GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

from torch import nn

from litmus.nn.core.layer_context import LayerContext

INIT_STD = 0.02


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A linear map; weights are initialized to N(0, 0.02²), biases to 0."""
    return _initialized(nn.Linear(inputs, outputs, bias=bias), INIT_STD)


def residual_linear(inputs: int, layer: LayerContext, *, bias: bool = False) -> nn.Linear:
    """A linear map into the residual stream; its std is divided by sqrt(2·depth), as 2·depth such outputs are added."""
    return _initialized(nn.Linear(inputs, layer.dim, bias=bias), residual_std(layer))


def residual_std(layer: LayerContext) -> float:
    """Initial standard deviation of weights whose outputs are added to the residual stream."""
    return INIT_STD / (2 * layer.depth) ** 0.5


def _initialized(layer: nn.Linear, std: float) -> nn.Linear:
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
