"""Scaled RoPE: rotations slowed down, so that a model trained at one context reads a longer one."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.nn.core.registry import Part, not_implemented


class RopeScaling(Part):
    """Frequencies f become keep · f + (1 - keep) · f / factor: fast turns stay, slow ones are stretched.

    `context` is the length that the frequencies were trained at; cos and sin are multiplied by `amplitude`.
    """

    family: ClassVar[str] = "scaling"
    factor: float = Field(ge=1)
    context: int = Field(ge=1)
    amplitude: float = Field(1.0, gt=0)

    def scaled(self, frequency: Tensor, theta: float) -> Tensor:
        """The frequencies to turn by, (width / 2,), from those of plain RoPE."""
        keep = self.keep(frequency, theta)
        return frequency * (keep + (1 - keep) / self.factor)

    def keep(self, frequency: Tensor, theta: float) -> Tensor:
        """How much of each frequency stays, from 0 to 1."""
        raise not_implemented(self, "keep(frequency, theta)")


class Llama3Scaling(RopeScaling):
    """Llama 3.1's: what turns more than `high` times within `context` stays, less than `low` times is stretched."""

    kind: Literal["llama3"] = "llama3"
    low: float = Field(1.0, gt=0)
    high: float = Field(4.0, gt=0)

    def keep(self, frequency: Tensor, theta: float) -> Tensor:
        turns = self.context * frequency / (2 * math.pi)
        return ((turns - self.low) / (self.high - self.low)).clamp(0, 1)


class YarnScaling(RopeScaling):
    """YaRN's (Peng et al. 2023, arXiv 2309.00071): between `high` and `low` turns, in equal steps from pair to pair."""

    kind: Literal["yarn"] = "yarn"
    low: float = Field(1.0, gt=0)
    high: float = Field(32.0, gt=0)

    def keep(self, frequency: Tensor, theta: float) -> Tensor:
        width = 2 * len(frequency)

        def pair(turns: float) -> float:
            return width * math.log(self.context / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = max(math.floor(pair(self.high)), 0), min(math.ceil(pair(self.low)), width - 1)
        pairs = torch.arange(len(frequency), device=frequency.device, dtype=frequency.dtype)
        return 1 - ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
