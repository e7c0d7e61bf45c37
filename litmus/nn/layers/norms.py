"""Norms: RMSNorm and LayerNorm."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part


class NormConfig(Part):
    """Base config of norms over the last dimension, of width `layer.dim`."""

    family: ClassVar[str] = "norm"
    eps: float = 1e-5


class RMSNormConfig(NormConfig):
    kind: Literal["rmsnorm"] = "rmsnorm"

    def build(self, layer: LayerContext) -> nn.Module:
        return RMSNorm(layer.dim, self.eps)


class LayerNormConfig(NormConfig):
    kind: Literal["layernorm"] = "layernorm"
    bias: bool = True

    def build(self, layer: LayerContext) -> nn.Module:
        return nn.LayerNorm(layer.dim, eps=self.eps, bias=self.bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
