"""Linear layers with the initialization of GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

from torch import nn

from litmus.nn.core.layer_context import LayerContext

INIT_STD = 0.02


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A linear map whose weights start as N(0, 0.02²), biases as 0."""
    return _started(nn.Linear(inputs, outputs, bias=bias), INIT_STD)


def residual_linear(inputs: int, layer: LayerContext, *, bias: bool = False) -> nn.Linear:
    """A linear map into the residual stream: its start is smaller by sqrt(2·depth), the number of such writes."""
    return _started(nn.Linear(inputs, layer.dim, bias=bias), residual_std(layer))


def residual_std(layer: LayerContext) -> float:
    """The standard deviation at which weights that write into the residual stream start."""
    return INIT_STD / (2 * layer.depth) ** 0.5


def _started(layer: nn.Linear, std: float) -> nn.Linear:
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
