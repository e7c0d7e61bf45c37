"""How a layer combines its mixer and its feedforward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer
from litmus.nn.core.registry import Part
from litmus.nn.layers.dropout import Dropout


class BlockConfig(Part):
    """The form of a layer."""

    family: ClassVar[str] = "block"

    def check_compatible(self, blocks: Sequence[BlockConfig]) -> None:
        """Raise BadInput where a layer of this form cannot stand in one model with layers of those forms."""


class PreNormConfig(BlockConfig):
    kind: Literal["prenorm"] = "prenorm"

    def build(self, layer: LayerContext) -> PreNormBlock:
        return PreNormBlock(layer)


class SingleResidualConfig(BlockConfig):
    kind: Literal["single_residual"] = "single_residual"

    def build(self, layer: LayerContext) -> SingleResidualBlock:
        return SingleResidualBlock(layer)


class PreNormBlock(Mixer):
    """x + mixer(norm(x)), then x + feedforward(norm(x)) (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.mixer_norm = layer.norm()
        self.mixer: Mixer = layer.new_mixer()
        self.supports_rollback = self.mixer.supports_rollback
        self.feedforward_norm = layer.norm()
        self.feedforward = layer.new_feedforward()
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = x + self.dropout(self.mixer(self.mixer_norm(x), ctx))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x), ctx))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)

    def kv_elements(self, capacity: int) -> int:
        return self.mixer.kv_elements(capacity)


class SingleResidualBlock(Mixer):
    """x + feedforward(mixer(norm(x))), as in the mini_deepseek report: the mixer itself adds nothing to the stream."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.norm = layer.norm()
        self.mixer: Mixer = layer.new_mixer()
        self.supports_rollback = self.mixer.supports_rollback
        self.feedforward = layer.new_feedforward()
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return x + self.dropout(self.feedforward(self.mixer(self.norm(x), ctx), ctx))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)

    def kv_elements(self, capacity: int) -> int:
        return self.mixer.kv_elements(capacity)
