"""How a layer combines its mixer and its feedforward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.mixer import Mixer, MixerConfig
from litmus.nn.core.registry import LayerContext, Part, not_implemented
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.feedforwards import FeedforwardConfig


class BlockConfig(Part):
    """The form of a layer."""

    family: ClassVar[str] = "block"

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, layer: LayerContext) -> Mixer:
        """Make the layer; it obeys the mixer's contract (forward, new_cache, kv_elements) as a whole."""
        raise not_implemented(self, "assemble(mixer, feedforward, layer)")

    def check_compatible(self, blocks: Sequence[BlockConfig]) -> None:
        """Raise BadInput where a layer of this form cannot stand in one model with layers of those forms."""


class PreNormConfig(BlockConfig):
    kind: Literal["prenorm"] = "prenorm"

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, layer: LayerContext) -> PreNormBlock:
        return PreNormBlock(mixer, feedforward, layer)


class SingleResidualConfig(BlockConfig):
    kind: Literal["single_residual"] = "single_residual"

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, layer: LayerContext) -> SingleResidualBlock:
        return SingleResidualBlock(mixer, feedforward, layer)


class PreNormBlock(Mixer):
    """x + mixer(norm(x)), then x + feedforward(norm(x)) (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, mixer: MixerConfig, feedforward: FeedforwardConfig, layer: LayerContext) -> None:
        super().__init__()
        self.mixer_norm = layer.norm.build(layer)
        self.mixer: Mixer = mixer.build(layer)  # type: ignore[assignment]
        self.supports_rollback = self.mixer.supports_rollback
        self.feedforward_norm = layer.norm.build(layer)
        self.feedforward = feedforward.build(layer)
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

    def __init__(self, mixer: MixerConfig, feedforward: FeedforwardConfig, layer: LayerContext) -> None:
        super().__init__()
        self.norm = layer.norm.build(layer)
        self.mixer: Mixer = mixer.build(layer)  # type: ignore[assignment]
        self.supports_rollback = self.mixer.supports_rollback
        self.feedforward = feedforward.build(layer)
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        return x + self.dropout(self.feedforward(self.mixer(self.norm(x), ctx), ctx))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)

    def kv_elements(self, capacity: int) -> int:
        return self.mixer.kv_elements(capacity)
