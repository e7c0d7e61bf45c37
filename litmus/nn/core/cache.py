"""The cache of a decoding model: static buffers per layer, and how many tokens each row holds."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.core.forward_context import Buffers, ForwardContext


class Cache:
    """Static buffers of every layer for `batch` rows of up to `capacity` tokens.

    `lengths` (B,) int64 counts the tokens each row holds. `start` is that count when all rows are known to
    agree, else None; `used` bounds it from above. Both live on the host, so that no step waits for a device.
    """

    def __init__(self, layers: list[Buffers], batch: int, capacity: int, device: torch.device) -> None:
        self.layers = layers
        self.capacity = capacity
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.start: int | None = 0
        self.used = 0

    def bytes(self) -> int:
        """Bytes held by all buffers, measured on the live tensors."""
        return sum(buffer.nbytes for layer in self.layers for buffer in layer.values())

    def reserve(self, tokens: int) -> int:
        """Upper bound of the used slots once `tokens` more per row are in; BadInput when they do not fit."""
        if self.used + tokens > self.capacity:
            self.used = int(self.lengths.max())  # the bound counts padding; the exact figure may still fit
        if self.used + tokens > self.capacity:
            raise BadInput(
                f"the cache holds {self.used} of {self.capacity} tokens and {tokens} more were given; "
                f"allocate new_cache(batch, capacity={self.used + tokens}) or more"
            )
        return self.used + tokens

    def advance(self, tokens: int, valid: Tensor | None) -> None:
        """Count the tokens of a finished step; padding (valid False) does not count."""
        self.used += tokens
        if valid is None:
            self.lengths += tokens
            self.start = None if self.start is None else self.start + tokens
        else:
            self.lengths += valid.sum(1)
            self.start = None

    def slice_rows(self, first: int, last: int) -> Cache:
        """The rows first..last-1 as a cache of their own over the same buffers; its owner keeps `start` and `used`."""
        rows = copy.copy(self)
        rows.layers = [{name: buffer[first:last] for name, buffer in layer.items()} for layer in self.layers]
        rows.lengths = self.lengths[first:last]
        return rows

    def reorder(self, rows: Tensor) -> None:
        """Let the rows be those of index `rows` (N,), in that order: a row may be taken often, or not at all."""
        self.layers = [{name: buffer[rows] for name, buffer in layer.items()} for layer in self.layers]
        self.lengths = self.lengths[rows]

    def truncate(self, length: int) -> None:
        """Forget what each row holds beyond `length` tokens, which it must hold; where `supports_rollback`."""
        self.lengths.fill_(length)
        self.start = self.used = length

    def reset_rows(self, rows: Tensor | slice) -> None:
        """Empty the rows where `rows` (B,) is True, or those of a slice, so that new texts can take their places."""
        for layer in self.layers:
            for buffer in layer.values():
                buffer[rows] = 0
        self.lengths[rows] = 0
        self.start = None


def heads_buffer(batch: int, capacity: int, heads: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros (B, capacity, H, D) for keys or values, which lie head by head in memory: the way attention reads them."""
    return torch.zeros(batch, heads, capacity, width, device=device, dtype=dtype).transpose(1, 2)


def update_kv(buffer: Tensor, new: Tensor, ctx: ForwardContext) -> Tensor:
    """Store `new` (B, T, ...) at its tokens' slots of `buffer` (B, capacity, ...); return the used part (B, S, ...).

    In a step of single tokens a row without one writes too, where its next token will: nothing reads it before that
    token replaces it, and no step has to find out which rows are real (on a GPU, to wait for it).
    """
    new = new.to(buffer.dtype)
    if ctx.start_pos is not None:
        buffer[:, ctx.start_pos : ctx.start_pos + new.shape[1]] = new
    elif ctx.padding_mask is not None and new.shape[1] > 1:
        valid = ctx.padding_mask
        rows, columns = ctx.memo("valid places", lambda: torch.nonzero(valid, as_tuple=True))
        buffer[rows, ctx.positions[rows, columns]] = new[rows, columns]
    else:
        rows = torch.arange(buffer.shape[0], device=buffer.device)[:, None]
        buffer[rows, ctx.positions] = new
    return buffer[:, : ctx.kv_len]
