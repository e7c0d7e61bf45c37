"""What every mixer declares and does: it moves information between tokens and knows what it must cache."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from litmus.nn.parts import Part, unwritten
from litmus.nn.step import Buffers, Step


class MixerConfig(Part):
    """How a layer moves information between tokens."""

    family: ClassVar[str] = "mixer"


class Mixer(nn.Module):
    """Base of mixers. One `forward` serves training, prefill, chunked prefill and token-by-token decoding.

    `rewinds` says that a row of its cache forgets its last tokens by going back in length, since slot i holds token i
    and nothing else remembers it; speculative decoding needs that of every mixer.
    """

    rewinds: bool = False

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """Mix x (B, T, dim) into the same shape; with `step.cache`, write this step's tokens there first."""
        raise unwritten(self, "forward(x, step)")

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        """Static buffers for `batch` rows of up to `capacity` tokens, zeroed; every first dimension is the row."""
        raise unwritten(self, "new_cache(batch, capacity, device, dtype)")

    def cached_numbers(self, capacity: int) -> int:
        """How many numbers the mechanism needs for one row of `capacity` tokens: what the buffers are held to."""
        raise unwritten(self, "cached_numbers(capacity)")
