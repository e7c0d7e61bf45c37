"""Attention within a sliding window, in time and memory linear in the number of tokens: no T x T mask anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.attention.attend import attend
from litmus.nn.core.forward_context import ForwardContext

BLOCK = 64
"""Queries in a block: each meets up to BLOCK - 1 keys beyond its window in vain; smaller products run slower."""


@dataclass(frozen=True)
class Window:
    """What a query may read: the last `size` tokens, itself among them, and the first `sinks` tokens of its text."""

    size: int
    sinks: int = 0

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether tokens at positions `queries` may read those at positions `keys` (-1: nothing stands there)."""
        age = queries - keys
        return (keys >= 0) & (age >= 0) & ((age < self.size) | (keys < self.sinks))


@dataclass(frozen=True)
class Keys:
    """S keys in the order of their tokens, the last T of them those of the queries.

    positions: (B or 1, S) the place of each in its text. documents: (B, S) the text, where a row packs several.
    Tokens of a text stand side by side; only those after the sinks that no window reaches any more may be missing.
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
    block: int = BLOCK,
) -> Tensor:
    """softmax(factor · q·k / sqrt(D)) v over each query's window, for q (B, T, H, D), k (B, S, G, D), v (B, S, G, E).

    Blocks of queries become rows of one batch of fused attention. Each meets a band of keys: its own block, the whole
    blocks before it that its first query reaches, and the sinks of that query's text. Returns (B, T, H, E).
    """
    batch, length = q.shape[:2]
    bands = Bands(k.shape[1], length, block, before=-(-(window.size - 1) // block))
    sinks, mask = ctx.memo(("bands", bands, window), lambda: _visible(bands, keys, window))
    if query_scale is not None:
        q = (q * query_scale[..., None]).to(q.dtype)
    k, v = (torch.cat((bands.cut(x), _at(x, sinks)), dim=2).flatten(0, 1) for x in (k, v))
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]
    y = attend(bands.queries(q).flatten(0, 1), k, v, mask)
    return y.unflatten(0, (batch, bands.count)).flatten(1, 2)[:, :length]


@dataclass(frozen=True)
class Bands:
    """How the last `length` of `keys` places are cut into blocks, each with the `before` blocks in front of it."""

    keys: int
    length: int
    block: int
    before: int

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-self.length // self.block)

    def queries(self, x: Tensor, fill: int = 0) -> Tensor:
        """(B, T, ...) as (B, blocks, block, ...), the last one filled up."""
        return _padded(x, 0, self.count * self.block - self.length, fill).unflatten(1, (self.count, self.block))

    def cut(self, x: Tensor, fill: int = 0) -> Tensor:
        """(B, S, ...) as (B, blocks, keys in a band, ...), `fill` where no key stands."""
        front = self.before * self.block - (self.keys - self.length)
        back = self.count * self.block - self.length
        blocks = _padded(x, front, back, fill).unflatten(1, (self.before + self.count, self.block))
        return torch.cat([blocks[:, first : first + self.count] for first in range(self.before + 1)], dim=2)


def _visible(bands: Bands, keys: Keys, window: Window) -> tuple[Tensor, Tensor]:
    """Where the sinks of each block stand among the keys (B or 1, blocks, n), and what each query of a block reads of

    its band and then of these, (B or 1, blocks, block, keys in a band + n).
    """
    positions, documents = keys.positions, keys.documents
    device, older = positions.device, bands.keys - bands.length
    band = bands.cut(positions, -1)
    reads = window.visible(bands.queries(positions[:, older:], -1)[..., None], band[..., None, :])
    first = older + torch.arange(bands.count, device=device) * bands.block  # the first query of each block
    begins = torch.zeros_like(first)[None] if documents is None else first - positions[:, first]
    sinks = begins[..., None] + torch.arange(window.sinks, device=device)
    # Sinks inside the band are read there. Those before it belong to the text that the block begins in.
    before_band = sinks < (first - bands.before * bands.block)[:, None]
    reads_sinks = before_band[..., None, :].expand(*reads.shape[:3], -1)
    if documents is not None:
        texts = bands.queries(documents[:, older:], -1)
        reads = reads & (texts[..., None] == bands.cut(documents, -1)[..., None, :])
        reads_sinks = reads_sinks & (texts == texts[..., :1])[..., None]
    # What fills up the last block reads itself: its output is cut off, but a query without any key would be NaN.
    itself = torch.eye(bands.block, dtype=torch.bool, device=device)
    reads = reads | F.pad(itself, (bands.before * bands.block, 0))
    return sinks.clamp(max=bands.keys - 1), torch.cat((reads, reads_sinks), dim=-1)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """x (B, S, ...) at places (B or 1, N, n): (B, N, n, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None, None], places]


def _padded(x: Tensor, front: int, back: int, fill: int = 0) -> Tensor:
    """x (B, S, ...) with `front` and `back` more places along S, or that many fewer where negative."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + (front, back), value=fill)
