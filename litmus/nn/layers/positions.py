"""Position encodings: none, learned, sinusoidal (both added to the embedding) and RoPE (rotates queries and keys)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part, parse_config
from litmus.nn.layers.linear import INIT_STD
from litmus.nn.layers.rope_scaling import RopeScaling


class PositionsConfig(Part):
    """Base config of position encodings; `build` returns the module that is applied to the embeddings."""

    family: ClassVar[str] = "positions"

    def build(self, layer: LayerContext) -> nn.Module:
        return NoPositions()

    def rotation(self, width: int) -> Rotation | None:
        """The rotation of query and key heads of width `width`, or None if this encoding has none."""
        return None


class NoPositionsConfig(PositionsConfig):
    kind: Literal["none"] = "none"


class LearnedPositionsConfig(PositionsConfig):
    kind: Literal["learned"] = "learned"

    def build(self, layer: LayerContext) -> nn.Module:
        return LearnedPositions(layer.context, layer.dim)


class SinusoidalPositionsConfig(PositionsConfig):
    kind: Literal["sinusoidal"] = "sinusoidal"
    amplitude: float = Field(1.0, gt=0)

    def build(self, layer: LayerContext) -> nn.Module:
        return SinusoidalPositions(layer.dim, self.amplitude)


class RopeConfig(PositionsConfig):
    kind: Literal["rope"] = "rope"
    theta: float = Field(10_000.0, gt=1)
    scaling: Any = None

    @field_validator("scaling", mode="before")
    @classmethod
    def _declared(cls, raw: Any) -> Part | None:
        return None if raw is None else parse_config(RopeScaling, raw)

    def rotation(self, width: int) -> Rotation:
        if width % 2:
            raise BadInput(f"RoPE rotates pairs of numbers, but a head is {width} wide; an even width is valid")
        return Rotation(width, self.theta, self.scaling)


class NoPositions(nn.Module):
    """Adds nothing: a causal decoder of two or more layers can infer positions from the mask (Haviv et al. 2022)."""

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return x


class LearnedPositions(nn.Module):
    """Adds one learned vector per position to x (B, T, dim), for positions below `context`."""

    def __init__(self, context: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context, dim))
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        last = ctx.kv_len or x.shape[1]
        if last > len(self.weight) and ctx.start_pos is None:
            last = int(ctx.positions.max()) + 1  # kv_len includes padding; the exact length may fit
        if last > len(self.weight):
            raise BadInput(
                f"learned positions end at {len(self.weight)} tokens (the recipe's context), the sequence has {last}; "
                f"shorten it, or build with context={last} or more"
            )
        if ctx.start_pos is not None:
            return x + self.weight[ctx.start_pos : ctx.start_pos + x.shape[1]]
        return x + self.weight[ctx.positions]


class SinusoidalPositions(nn.Module):
    """Adds sin and cos of the position at geometric frequencies to x (B, T, dim), of any length.

    PE[p, 2i] = sin(p / 10000^(2i/dim)), PE[p, 2i+1] = cos(p / 10000^(2i/dim)) (Vaswani et al. 2017, section 3.5),
    times `amplitude`. The paper adds it at amplitude 1 to embeddings of unit variance.
    """

    def __init__(self, dim: int, amplitude: float) -> None:
        super().__init__()
        if dim % 2:
            raise BadInput(f"sinusoidal positions pair sines with cosines, but dim is {dim}; an even dim is valid")
        self.dim = dim
        self.amplitude = amplitude

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        frequency = 10_000.0 ** (-torch.arange(0, self.dim, 2, device=x.device, dtype=exact) / self.dim)
        angle = ctx.positions[:1] if ctx.start_pos is not None else ctx.positions
        angle = angle[..., None] * frequency
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
        return x + (self.amplitude * table).to(x.dtype)


class Rotation:
    """RoPE: rotates each pair (x_i, x_{i + width/2}) of a head by the angle position · theta^(-2i/width).

    Su et al. 2021 (arXiv 2104.09864), with pairs half a head apart as in Llama. Scores of rotated queries and keys
    depend on their positions through the difference only.
    """

    def __init__(self, width: int, theta: float, scaling: RopeScaling | None = None) -> None:
        self.width = width
        self.theta = theta
        self.scaling = scaling

    def __call__(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Rotate x (B, T, H, width) by the positions of its tokens."""
        key = ("rotation", self.width, self.theta, self.scaling, x.dtype)
        cos, sin = ctx.memo(key, lambda: self._tables(x, ctx))
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def _tables(self, x: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor]:
        """cos and sin (B or 1, T, 1, width/2), computed in at least fp32 and then cast to the dtype of x."""
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        frequency = self.theta ** (-torch.arange(0, self.width, 2, device=x.device, dtype=exact) / self.width)
        amplitude = 1.0
        if self.scaling is not None:
            frequency, amplitude = self.scaling.scaled(frequency, self.theta), self.scaling.amplitude
        positions = ctx.positions[:1] if ctx.start_pos is not None else ctx.positions
        angle = (positions[..., None] * frequency)[:, :, None]
        return (amplitude * angle.cos()).to(x.dtype), (amplitude * angle.sin()).to(x.dtype)
