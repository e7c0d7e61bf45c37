"""The cache layout of window attention: slots for the sinks, and a ring buffer for the last tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.nn.attention.banded import Window
from litmus.nn.core.forward_context import ForwardContext


@dataclass(frozen=True)
class Ring:
    """The slots of a row: one for each sink, then a ring buffer of `size` slots.

    The token at position p >= sinks has slot sinks + (p - sinks) % size, so that each new token overwrites the one that
    has just left the window.
    """

    window: Window

    def slots(self, capacity: int) -> int:
        """Number of slots for a row of up to `capacity` tokens."""
        return min(capacity, self.window.sinks + self.window.size)

    def slot(self, positions: Tensor) -> Tensor:
        """Slot of the token at each position."""
        sinks, size = self.window.sinks, self.window.size
        return torch.where(positions < sinks, positions, sinks + (positions - sinks) % size)

    def cached(self, slots: int, ctx: ForwardContext) -> tuple[Tensor | slice, Tensor]:
        """The slots with tokens of earlier passes, and their positions (B or 1, S); call it before `write`.

        If all rows have the same length, the slots are in token order; otherwise all slots are returned, with position
        -1 for empty ones.
        """
        window, device = self.window, ctx.positions.device
        if ctx.start_pos is not None:
            positions = torch.arange(ctx.start_pos, device=device)
            positions = positions[(positions < window.sinks) | (positions > ctx.start_pos - window.size)]
            return self.slot(positions), positions[None]
        slot = torch.arange(slots, device=device)
        newest = ctx.positions[:, :1] - 1  # last position in the cache
        turns = (newest - slot).div(window.size, rounding_mode="floor")
        latest = torch.where(slot < window.sinks, slot, slot + turns * window.size)
        return slice(None), torch.where(slot <= newest, latest, -1)

    def write(self, buffer: Tensor, new: Tensor, ctx: ForwardContext) -> None:
        """Write the tokens of `new` (B, T, ...) that fit into the ring to `buffer` (B, slots, ...)."""
        new = new.to(buffer.dtype)
        if new.shape[1] == 1:  # padded rows write too, to the slot of their next token
            buffer[torch.arange(len(buffer), device=buffer.device), self.slot(ctx.positions)[:, 0]] = new[:, 0]
            return
        if ctx.start_pos is not None:
            positions = ctx.positions[0]
            columns = self._fits(positions, ctx.start_pos + new.shape[1] - 1).nonzero()[:, 0]
            buffer[:, self.slot(positions[columns])] = new[:, columns]
            return
        last = (
            ctx.positions[:, -1:]
            if ctx.padding_mask is None
            else ctx.positions.masked_fill(~ctx.padding_mask, -1).amax(1, True)
        )
        kept = self._fits(ctx.positions, last)
        if ctx.padding_mask is not None:
            kept = kept & ctx.padding_mask
        rows, columns = ctx.memo(("tokens in ring", self), lambda: torch.nonzero(kept, as_tuple=True))
        buffer[rows, self.slot(ctx.positions[rows, columns])] = new[rows, columns]

    def _fits(self, positions: Tensor, last: Tensor | int) -> Tensor:
        """Which positions the slots hold after the token at position `last` has been written."""
        return (positions < self.window.sinks) | (positions > last - self.window.size)
