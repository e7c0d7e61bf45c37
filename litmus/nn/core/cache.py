"""The cache for decoding: static buffers per layer, and the number of tokens in each row."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.core.forward_context import Buffers, ForwardContext


class Cache:
    """Static buffers of every layer for `batch` rows of up to `capacity` tokens.

    `lengths` (B,) int64 is the number of tokens in each row. `start` is that number as an int if it is known to be the
    same in all rows, else None; `used` is an upper bound of it. Both are Python ints, so that reading them does not
    synchronize with the device.
    """

    def __init__(self, layers: list[Buffers], batch: int, capacity: int, device: torch.device) -> None:
        self.layers = layers
        self.capacity = capacity
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.start: int | None = 0
        self.used = 0

    def bytes(self) -> int:
        """Size of all buffers in bytes."""
        return sum(buffer.nbytes for layer in self.layers for buffer in layer.values())

    def reserve(self, tokens: int) -> int:
        """Upper bound of the used slots after `tokens` more per row; BadInput if they do not fit."""
        if self.used + tokens > self.capacity:
            self.used = int(self.lengths.max())  # the bound includes padding; the exact length may fit
        if self.used + tokens > self.capacity:
            raise BadInput(
                f"the cache holds {self.used} of {self.capacity} tokens and {tokens} more were given; "
                f"allocate new_cache(batch, capacity={self.used + tokens}) or more"
            )
        return self.used + tokens

    def advance(self, tokens: int, valid: Tensor | None) -> None:
        """Add the tokens of a forward pass to the lengths; padding (`valid` (B, T) False) does not count."""
        self.used += tokens
        if valid is None:
            self.lengths += tokens
            self.start = None if self.start is None else self.start + tokens
        else:
            self.lengths += valid.sum(1)
            self.start = None

    def slice_rows(self, first: int, last: int) -> Cache:
        """A view of rows first..last-1; the caller has to keep its `start` and `used` up to date."""
        rows = copy.copy(self)
        rows.layers = [{name: buffer[first:last] for name, buffer in layer.items()} for layer in self.layers]
        rows.lengths = self.lengths[first:last]
        return rows

    def reorder(self, rows: Tensor) -> None:
        """Replace the rows by those at indices `rows` (N,); an index may occur several times or not at all."""
        self.layers = [{name: buffer[rows] for name, buffer in layer.items()} for layer in self.layers]
        self.lengths = self.lengths[rows]

    def truncate(self, length: int) -> None:
        """Truncate every row to its first `length` tokens; all mixers must have `supports_rollback`."""
        self.lengths.fill_(length)
        self.start = self.used = length

    def reset_rows(self, rows: Tensor | slice) -> None:
        """Empty the rows where `rows` (B,) is True, or those of a slice, for new sequences."""
        for layer in self.layers:
            for buffer in layer.values():
                buffer[rows] = 0
        self.lengths[rows] = 0
        self.start = None


def heads_buffer(batch: int, capacity: int, heads: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros (B, capacity, H, D) for keys or values, in memory as (B, H, capacity, D), which suits attention."""
    return torch.zeros(batch, heads, capacity, width, device=device, dtype=dtype).transpose(1, 2)


def update_kv(buffer: Tensor, new: Tensor, ctx: ForwardContext) -> Tensor:
    """Write `new` (B, T, ...) to `buffer` (B, capacity, ...) at slots `ctx.positions`; return the first kv_len slots.

    With T = 1, padded rows are written as well, at the slot of their next token: it is not attended to before that
    token overwrites it, and selecting the real rows would synchronize with the GPU.
    """
    new = new.to(buffer.dtype)
    if ctx.start_pos is not None:
        buffer[:, ctx.start_pos : ctx.start_pos + new.shape[1]] = new
    elif ctx.padding_mask is not None and new.shape[1] > 1:
        valid = ctx.padding_mask
        rows, columns = ctx.memo("indices of real tokens", lambda: torch.nonzero(valid, as_tuple=True))
        buffer[rows, ctx.positions[rows, columns]] = new[rows, columns]
    else:
        rows = torch.arange(buffer.shape[0], device=buffer.device)[:, None]
        buffer[rows, ctx.positions] = new
    return buffer[:, : ctx.kv_len]
