"""How a layer combines its mixer and its feedforward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from litmus.nn.dropout import Dropout
from litmus.nn.feedforwards import FeedforwardConfig
from litmus.nn.mixers import Mixer, MixerConfig
from litmus.nn.parts import Part, Site, unwritten
from litmus.nn.step import Buffers, Step


class BlockConfig(Part):
    """The form of a layer."""

    family: ClassVar[str] = "block"

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> Mixer:
        """Make the layer; it obeys the mixer's contract (forward, new_cache, cached_numbers) as a whole."""
        raise unwritten(self, "assemble(mixer, feedforward, site)")

    def beside(self, blocks: Sequence[BlockConfig]) -> None:
        """Raise BadInput where a layer of this form cannot stand in one model with layers of those forms."""


class PreNormConfig(BlockConfig):
    kind: Literal["prenorm"] = "prenorm"

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> PreNormBlock:
        return PreNormBlock(mixer, feedforward, site)


class SingleResidualConfig(BlockConfig):
    kind: Literal["single_residual"] = "single_residual"

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> SingleResidualBlock:
        return SingleResidualBlock(mixer, feedforward, site)


class PreNormBlock(Mixer):
    """x + mixer(norm(x)), then x + feedforward(norm(x)) (Xiong et al. 2020, arXiv 2002.04745)."""

    def __init__(self, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> None:
        super().__init__()
        self.mixer_norm = site.norm.build(site)
        self.mixer: Mixer = mixer.build(site)  # type: ignore[assignment]
        self.rewinds = self.mixer.rewinds
        self.feedforward_norm = site.norm.build(site)
        self.feedforward = feedforward.build(site)
        self.dropout = Dropout(site.dropout)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = x + self.dropout(self.mixer(self.mixer_norm(x), step))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x), step))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)

    def cached_numbers(self, capacity: int) -> int:
        return self.mixer.cached_numbers(capacity)


class SingleResidualBlock(Mixer):
    """x + feedforward(mixer(norm(x))), as in the mini_deepseek report: the mixer itself adds nothing to the stream."""

    def __init__(self, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> None:
        super().__init__()
        self.norm = site.norm.build(site)
        self.mixer: Mixer = mixer.build(site)  # type: ignore[assignment]
        self.rewinds = self.mixer.rewinds
        self.feedforward = feedforward.build(site)
        self.dropout = Dropout(site.dropout)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return x + self.dropout(self.feedforward(self.mixer(self.norm(x), step), step))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)

    def cached_numbers(self, capacity: int) -> int:
        return self.mixer.cached_numbers(capacity)
