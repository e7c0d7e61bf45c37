"""Dense feedforwards, which map each token of (B, T, dim) independently."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part, not_implemented, takes_context
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.linear import linear, residual_linear


class FeedforwardConfig(Part):
    """Base config of feedforwards."""

    family: ClassVar[str] = "feedforward"

    @classmethod
    def adapt(cls, module: nn.Module, layer: LayerContext) -> nn.Module:
        return module if takes_context(module) else Tokenwise(module)


class Tokenwise(nn.Module):
    """Adapter of a plug-in's feedforward with `forward(x)`, without a context."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.module(x)


class DenseConfig(FeedforwardConfig):
    """Options of dense feedforwards; `hidden` is the inner width (default: 4 · dim, or 8/3 · dim for SwiGLU)."""

    size_keys: ClassVar[tuple[str, ...]] = ("hidden",)
    hidden: int | None = Field(None, ge=1)
    bias: bool = False


class GeluConfig(DenseConfig):
    """`approximate: tanh` is the variant of GPT-2."""

    kind: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"

    def build(self, layer: LayerContext) -> nn.Module:
        return Gelu(self, layer)


class Relu2Config(DenseConfig):
    kind: Literal["relu2"] = "relu2"

    def build(self, layer: LayerContext) -> nn.Module:
        return Relu2(self, layer)


class SwigluConfig(DenseConfig):
    kind: Literal["swiglu"] = "swiglu"

    def build(self, layer: LayerContext) -> nn.Module:
        return Swiglu(self, layer)


class Dense(nn.Module):
    """W_2 f(W_1 x); a subclass sets the activation f."""

    def __init__(self, config: DenseConfig, layer: LayerContext) -> None:
        super().__init__()
        hidden = config.hidden or 4 * layer.dim
        self.up = linear(layer.dim, hidden, bias=config.bias)
        self.down = residual_linear(hidden, layer, bias=config.bias)
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return self.down(self.dropout(self.activation(self.up(x))))

    def activation(self, h: Tensor) -> Tensor:
        """The activation f, elementwise on h (B, T, hidden)."""
        raise not_implemented(self, "activation(h)")


class Gelu(Dense):
    """W_2 gelu(W_1 x) (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, config: GeluConfig, layer: LayerContext) -> None:
        super().__init__(config, layer)
        self.approximate = config.approximate

    def activation(self, h: Tensor) -> Tensor:
        return F.gelu(h, approximate=self.approximate)


class Relu2(Dense):
    """W_2 relu(W_1 x)² (So et al. 2021, Primer, arXiv 2109.08668)."""

    def activation(self, h: Tensor) -> Tensor:
        return F.relu(h).square()


class Swiglu(nn.Module):
    """W_down (silu(W_gate x) · W_up x) (Shazeer 2020, arXiv 2002.05202); gate and up share one matmul."""

    def __init__(self, config: SwigluConfig, layer: LayerContext) -> None:
        super().__init__()
        hidden = config.hidden or swiglu_hidden(layer.dim)
        self.gate_up = linear(layer.dim, 2 * hidden, bias=config.bias)
        self.down = residual_linear(hidden, layer, bias=config.bias)
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.dropout(F.silu(gate) * up))


def swiglu_hidden(dim: int) -> int:
    """Inner width of a SwiGLU with the parameters of a 4·dim feedforward: 8/3·dim, rounded up to a multiple of 32."""
    return -(-8 * dim // (3 * 32)) * 32
