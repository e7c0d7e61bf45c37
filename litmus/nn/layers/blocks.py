"""Blocks: layers that combine a mixer and a feedforward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer, as_mixer, part_elements
from litmus.nn.core.registry import Part
from litmus.nn.layers.dropout import Dropout

FEEDFORWARD = "feedforward."
"""Prefix of the names of the feedforward's buffers in a layer's cache."""


class BlockConfig(Part):
    """Base config of blocks."""

    family: ClassVar[str] = "block"

    @classmethod
    def adapt(cls, module: nn.Module, layer: LayerContext) -> nn.Module:
        return as_mixer(module, layer)

    def check_compatible(self, blocks: Sequence[BlockConfig]) -> None:
        """Raise BadInput if a layer of this config cannot be combined with layers of the configs `blocks`."""


class PreNormConfig(BlockConfig):
    kind: Literal["prenorm"] = "prenorm"

    def build(self, layer: LayerContext) -> PreNormBlock:
        return PreNormBlock(layer)


class SingleResidualConfig(BlockConfig):
    kind: Literal["single_residual"] = "single_residual"

    def build(self, layer: LayerContext) -> SingleResidualBlock:
        return SingleResidualBlock(layer)


class Block(Mixer):
    """Base of layers with a `mixer` and a `feedforward`; their cache has the buffers of both."""

    mixer: Mixer
    feedforward: Any

    @property
    def caches_feedforward(self) -> bool:
        """Whether the feedforward has a cache, because its output depends on earlier tokens."""
        return callable(getattr(self.feedforward, "new_cache", None))

    @property
    def supports_rollback(self) -> bool:  # type: ignore[override]
        return self.mixer.supports_rollback and not (
            self.caches_feedforward and not getattr(self.feedforward, "supports_rollback", False)
        )

    def feedforward_context(self, ctx: ForwardContext) -> ForwardContext:
        """The context with the feedforward's buffers as its cache, if it has any."""
        if ctx.cache is None or not self.caches_feedforward:
            return ctx
        buffers = {name.removeprefix(FEEDFORWARD): x for name, x in ctx.cache.items() if name.startswith(FEEDFORWARD)}
        return ctx.with_cache(buffers)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        buffers = self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)
        if self.caches_feedforward:
            more = self.feedforward.new_cache(batch, capacity, device=device, dtype=dtype)
            buffers = {**buffers, **{FEEDFORWARD + name: buffer for name, buffer in more.items()}}
        return buffers

    def kv_elements(self, capacity: int) -> int:
        elements = self.mixer.kv_elements(capacity)
        if self.caches_feedforward:
            elements += part_elements(self.feedforward, capacity)
        return elements


class PreNormBlock(Block):
    """x + mixer(norm(x)), then x + feedforward(norm(x)) (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.mixer_norm = layer.norm()
        self.mixer = layer.new_mixer()
        self.feedforward_norm = layer.norm()
        self.feedforward = layer.new_feedforward()
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        x = x + self.dropout(self.mixer(self.mixer_norm(x), ctx))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x), self.feedforward_context(ctx)))


class SingleResidualBlock(Block):
    """x + feedforward(mixer(norm(x))), as in the mini_deepseek report: one residual connection around both."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.norm = layer.norm()
        self.mixer = layer.new_mixer()
        self.feedforward = layer.new_feedforward()
        self.dropout = Dropout(layer.dropout)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        mixed = self.mixer(self.norm(x), ctx)
        return x + self.dropout(self.feedforward(mixed, self.feedforward_context(ctx)))
