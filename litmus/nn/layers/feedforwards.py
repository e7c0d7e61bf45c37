"""Dense feedforwards: what happens within one token. Each maps (B, T, dim) to (B, T, dim)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.linear import linear, residual_linear


class FeedforwardConfig(Part):
    """What a layer does within each token."""

    family: ClassVar[str] = "feedforward"


class DenseConfig(FeedforwardConfig):
    """What the dense kinds share; each kind sets its own default for `hidden`, the inner width."""

    size_keys: ClassVar[tuple[str, ...]] = ("hidden",)
    hidden: int | None = Field(None, ge=1)
    bias: bool = False


class GeluConfig(DenseConfig):
    """`approximate: tanh` is the form GPT-2 was trained with."""

    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"

    def build(self, layer: LayerContext) -> nn.Module:
        return Gelu(self, self.hidden or 4 * layer.dim, layer)


class Relu2Config(DenseConfig):
    kind: Literal["relu2"] = "relu2"

    def build(self, layer: LayerContext) -> nn.Module:
        return Relu2(self, self.hidden or 4 * layer.dim, layer)


class SwigluConfig(DenseConfig):
    kind: Literal["swiglu"] = "swiglu"

    def build(self, layer: LayerContext) -> nn.Module:
        return Swiglu(self, self.hidden or swiglu_hidden(layer.dim), layer)


def swiglu_hidden(dim: int) -> int:
    """The inner width at which a SwiGLU has the parameters of a 4·dim feedforward: 8/3·dim, rounded up to 32s."""
    return -(-8 * dim // (3 * 32)) * 32


class Gelu(nn.Module):
    """W_2 gelu(W_1 x) (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, config: GeluConfig, hidden: int, layer: LayerContext) -> None:
        super().__init__()
        self.up = linear(layer.dim, hidden, bias=config.bias)
        self.down = residual_linear(hidden, layer, bias=config.bias)
        self.dropout = Dropout(layer.dropout)
        self.approximate = config.approximate

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x), approximate=self.approximate)))


class Relu2(nn.Module):
    """W_2 relu(W_1 x)² (So et al. 2021, Primer, arXiv 2109.08668)."""

    def __init__(self, config: Relu2Config, hidden: int, layer: LayerContext) -> None:
        super().__init__()
        self.up = linear(layer.dim, hidden, bias=config.bias)
        self.down = residual_linear(hidden, layer, bias=config.bias)
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x)).square()))


class Swiglu(nn.Module):
    """W_down (silu(W_gate x) · W_up x) (Shazeer 2020, arXiv 2002.05202); gate and up share one matmul."""

    def __init__(self, config: SwigluConfig, hidden: int, layer: LayerContext) -> None:
        super().__init__()
        self.gate_up = linear(layer.dim, 2 * hidden, bias=config.bias)
        self.down = residual_linear(hidden, layer, bias=config.bias)
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.dropout(F.silu(gate) * up))
