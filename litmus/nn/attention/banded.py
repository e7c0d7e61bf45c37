"""Sliding-window attention in time and memory linear in the number of tokens, without a T x T mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.attention.attend import attend
from litmus.nn.attention.flex import Interval
from litmus.nn.core.forward_context import ForwardContext

QUERIES_PER_BLOCK = 64
"""Queries of a block share their keys, up to QUERIES_PER_BLOCK - 1 of which a query masks; smaller blocks mean smaller
matmuls, which are slower."""


@dataclass(frozen=True)
class Window:
    """A query attends to the last `size` tokens, including itself, and the first `sinks` tokens of its text."""

    size: int
    sinks: int = 0

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether queries at positions `queries` attend to keys at positions `keys` (-1: no key)."""
        age = queries - keys
        return (keys >= 0) & (age >= 0) & ((age < self.size) | (keys < self.sinks))

    def intervals(self, first: Tensor) -> list[Interval]:
        """The same in intervals of key indices; first (B or 1, T) is the index of the first token of a query's text."""
        after = torch.arange(1, first.shape[1] + 1, device=first.device)[None]
        recent = (torch.maximum(first, after - self.size), after)
        return [recent, (first, torch.minimum(first + self.sinks, after))] if self.sinks else [recent]


@dataclass(frozen=True)
class Keys:
    """S keys in the order of their tokens; the last T are those of the T queries.

    positions: (B or 1, S) position of each key in its text. documents: (B, S) packed document of each key, or None.
    The keys of a text are contiguous; only keys after the sinks that are outside of every window may be missing.
    """

    positions: Tensor
    documents: Tensor | None = None


def attend_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Keys,
    window: Window,
    ctx: ForwardContext,
    query_scale: Tensor | None = None,
    *,
    block: int = QUERIES_PER_BLOCK,
) -> Tensor:
    """softmax(query_scale · q·k / sqrt(D)) v in each query's window; q (B, T, H, D), k (B, S, G, D), v (B, S, G, E).

    Blocks of queries become the batch rows of one fused attention. The keys of a block are its band: the block itself,
    the whole blocks before it that overlap the window of its first query, and the sinks of that query's text. Returns
    (B, T, H, E).
    """
    batch, length = q.shape[:2]
    bands = Bands(k.shape[1], length, block, before=-(-(window.size - 1) // block))
    sinks, mask = ctx.memo(("bands", bands, window), lambda: _sinks_and_mask(bands, keys, window))
    if query_scale is not None:
        q = (q * query_scale[..., None]).to(q.dtype)
    k, v = (torch.cat((bands.cut(x), _gather(x, sinks)), dim=2).flatten(0, 1) for x in (k, v))
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    y = attend(bands.queries(q).flatten(0, 1), k, v, mask)
    return y.unflatten(0, (batch, bands.count)).flatten(1, 2)[:, :length]


@dataclass(frozen=True)
class Bands:
    """Division of the last `length` of `keys` keys into blocks; a band is a block and the `before` blocks before it."""

    keys: int
    length: int
    block: int
    before: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.length // self.block)

    def queries(self, x: Tensor, fill: int = 0) -> Tensor:
        """(B, T, ...) as (B, blocks, block, ...); the last block is padded with `fill`."""
        return _padded(x, 0, self.count * self.block - self.length, fill).unflatten(1, (self.count, self.block))

    def cut(self, x: Tensor, fill: int = 0) -> Tensor:
        """(B, S, ...) as (B, blocks, keys in a band, ...), with `fill` where there is no key."""
        front = self.before * self.block - (self.keys - self.length)
        back = self.count * self.block - self.length
        blocks = _padded(x, front, back, fill).unflatten(1, (self.before + self.count, self.block))
        return torch.cat([blocks[:, first : first + self.count] for first in range(self.before + 1)], dim=2)


def _sinks_and_mask(bands: Bands, keys: Keys, window: Window) -> tuple[Tensor, Tensor]:
    """Key indices of each block's sinks (B or 1, blocks, n), and the mask of each query over band and sinks.

    The mask is (B or 1, blocks, block, keys in a band + n).
    """
    positions, documents = keys.positions, keys.documents
    device, older = positions.device, bands.keys - bands.length
    band = bands.cut(positions, -1)
    mask = window.visible(bands.queries(positions[:, older:], -1)[..., None], band[..., None, :])
    first = older + torch.arange(bands.count, device=device) * bands.block  # the first query of each block
    begins = torch.zeros_like(first)[None] if documents is None else first - positions[:, first]
    sinks = begins[..., None] + torch.arange(window.sinks, device=device)
    # Sinks inside the band are masked here, as the band has them. Those before it belong to the text in which the block
    # begins.
    before_band = sinks < (first - bands.before * bands.block)[:, None]
    sink_mask = before_band[..., None, :].expand(*mask.shape[:3], -1)
    if documents is not None:
        texts = bands.queries(documents[:, older:], -1)
        mask = mask & (texts[..., None] == bands.cut(documents, -1)[..., None, :])
        sink_mask = sink_mask & (texts == texts[..., :1])[..., None]
    # Padding of the last block attends to itself: its output is cut off, but the softmax over no key is NaN.
    itself = torch.eye(bands.block, dtype=torch.bool, device=device)
    mask = mask | F.pad(itself, (bands.before * bands.block, 0))
    return sinks.clamp(max=bands.keys - 1), torch.cat((mask, sink_mask), dim=-1)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """x (B, S, ...) at index (B or 1, N, n): (B, N, n, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None, None], index]


def _padded(x: Tensor, front: int, back: int, fill: int = 0) -> Tensor:
    """x (B, S, ...) with `front` and `back` elements of padding along S; negative numbers remove elements."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + (front, back), value=fill)
