"""A cache that forgets: it holds the first tokens of a text (its sinks) and the last ones, in a ring of slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.nn.attention.banded import Window
from litmus.nn.core.forward_context import ForwardContext


@dataclass(frozen=True)
class Ring:
    """The slots of a row: one for each sink, then `size` more that are filled in turn.

    A token at position p >= sinks has slot sinks + (p - sinks) % size. So the slots fill in order, and then each new
    token takes the place of the one that has just left every window.
    """

    window: Window

    def slots(self, capacity: int) -> int:
        """How many slots a row of up to `capacity` tokens needs."""
        return min(capacity, self.window.sinks + self.window.size)

    def slot(self, positions: Tensor) -> Tensor:
        """The slot of the token at each position."""
        sinks, size = self.window.sinks, self.window.size
        return torch.where(positions < sinks, positions, sinks + (positions - sinks) % size)

    def held(self, slots: int, ctx: ForwardContext) -> tuple[Tensor | slice, Tensor]:
        """Before this step's tokens are written: which slots to read, and the positions (B or 1, S) of their tokens.

        Where all rows agree on their length, the slots come in the order of their tokens; else all of them come, and
        an empty one has position -1.
        """
        window, device = self.window, ctx.positions.device
        if ctx.start_pos is not None:
            positions = torch.arange(ctx.start_pos, device=device)
            positions = positions[(positions < window.sinks) | (positions > ctx.start_pos - window.size)]
            return self.slot(positions), positions[None]
        slot = torch.arange(slots, device=device)
        newest = ctx.positions[:, :1] - 1  # of what the row holds
        turns = (newest - slot).div(window.size, rounding_mode="floor")
        latest = torch.where(slot < window.sinks, slot, slot + turns * window.size)
        return slice(None), torch.where(slot <= newest, latest, -1)

    def write(self, buffer: Tensor, new: Tensor, ctx: ForwardContext) -> None:
        """Store those of `new` (B, T, ...) that a later token may read in `buffer` (B, slots, ...)."""
        new = new.to(buffer.dtype)
        if new.shape[1] == 1:  # a row without a token writes too, where its next token will
            buffer[torch.arange(len(buffer), device=buffer.device), self.slot(ctx.positions)[:, 0]] = new[:, 0]
            return
        if ctx.start_pos is not None:
            positions = ctx.positions[0]
            places = self._kept(positions, ctx.start_pos + new.shape[1] - 1).nonzero()[:, 0]
            buffer[:, self.slot(positions[places])] = new[:, places]
            return
        last = (
            ctx.positions[:, -1:]
            if ctx.padding_mask is None
            else ctx.positions.masked_fill(~ctx.padding_mask, -1).amax(1, True)
        )
        kept = self._kept(ctx.positions, last)
        if ctx.padding_mask is not None:
            kept = kept & ctx.padding_mask
        rows, columns = ctx.memo(("kept places", self), lambda: torch.nonzero(kept, as_tuple=True))
        buffer[rows, self.slot(ctx.positions[rows, columns])] = new[rows, columns]

    def _kept(self, positions: Tensor, last: Tensor | int) -> Tensor:
        """Which tokens the ring still holds once the one at position `last` is in."""
        return (positions < self.window.sinks) | (positions > last - self.window.size)
