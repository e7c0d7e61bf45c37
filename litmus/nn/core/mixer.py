"""What every mixer declares and does: it moves information between tokens and knows what it must cache."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.registry import Part, not_implemented


class MixerConfig(Part):
    """How a layer moves information between tokens."""

    family: ClassVar[str] = "mixer"


class Mixer(nn.Module):
    """Base of mixers. One `forward` serves training, prefill, chunked prefill and token-by-token decoding.

    `supports_rollback` says that a row of its cache forgets its last tokens by going back in length, since slot i holds
    token i and nothing else remembers it; speculative decoding needs that of every mixer.

    `dense_weights` names the `nn.Linear` attributes whose `.weight` is read as a matrix. They stay `nn.Linear` where
    decoding packs or quantizes the others. Any module may declare it.
    """

    supports_rollback: bool = False
    dense_weights: tuple[str, ...] = ()

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Mix x (B, T, dim) into the same shape; with `ctx.cache`, write this step's tokens there first."""
        raise not_implemented(self, "forward(x, ctx)")

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        """Static buffers for `batch` rows of up to `capacity` tokens, zeroed; every first dimension is the row."""
        raise not_implemented(self, "new_cache(batch, capacity, device, dtype)")

    def kv_elements(self, capacity: int) -> int:
        """How many numbers the mechanism needs for one row of `capacity` tokens: what the buffers are held to."""
        raise not_implemented(self, "kv_elements(capacity)")
