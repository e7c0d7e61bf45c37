"""RoPE scaling: reduced frequencies, to use a model at a longer context than it was trained with."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.nn.core.registry import Part, not_implemented


class RopeScaling(Part):
    """Scaled frequencies keep · f + (1 - keep) · f / factor, with keep 1 for high frequencies and 0 for low ones.

    context: the sequence length in the original training. amplitude: factor on cos and sin.
    """

    family: ClassVar[str] = "scaling"
    factor: float = Field(ge=1)
    context: int = Field(ge=1)
    amplitude: float = Field(1.0, gt=0)

    def scaled(self, frequency: Tensor, theta: float) -> Tensor:
        """Scaled frequencies (width / 2,), given those of plain RoPE."""
        keep = self.keep(frequency, theta)
        return frequency * (keep + (1 - keep) / self.factor)

    def keep(self, frequency: Tensor, theta: float) -> Tensor:
        """The weight of the unscaled frequency, from 0 to 1."""
        raise not_implemented(self, "keep(frequency, theta)")


class Llama3Scaling(RopeScaling):
    """Llama 3.1: keep is 1 above `high` turns within `context`, 0 below `low`, and linear in the turns in between."""

    kind: Literal["llama3"] = "llama3"
    low: float = Field(1.0, gt=0)
    high: float = Field(4.0, gt=0)

    def keep(self, frequency: Tensor, theta: float) -> Tensor:
        turns = self.context * frequency / (2 * math.pi)
        return ((turns - self.low) / (self.high - self.low)).clamp(0, 1)


class YarnScaling(RopeScaling):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): between `high` and `low` turns keep is linear in the pair index."""

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
