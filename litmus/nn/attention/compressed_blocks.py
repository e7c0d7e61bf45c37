"""Compressed attention over whole sequences: compression of blocks to latents, masks, attention in chunks.

Indices here are indices into a row of keys. Padding has been moved to the end of the row, so that the tokens of a text
are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litmus.nn.attention.attend import attend
from litmus.nn.attention.flex import Interval
from litmus.nn.core.forward_context import ForwardContext

QUERIES_PER_CHUNK = 128
"""Queries of a chunk share their keys, from the window of the first query to the last query. Smaller chunks mask fewer
keys, larger ones have larger matmuls."""


@dataclass(frozen=True)
class Shape:
    """Blocks of `block` tokens are compressed to `latents` each; `window` recent tokens are kept uncompressed."""

    block: int
    latents: int
    window: int

    def keys(self, positions: Tensor) -> Tensor:
        """Number of keys, latents included, of the queries at `positions`."""
        return positions // self.block * self.latents + (positions + 1).clamp(max=self.window)

    @property
    def span(self) -> int:
        """Number of chunks of keys before its own that the window of a chunk of queries overlaps."""
        return -(-(self.window - 1) // QUERIES_PER_CHUNK)

    @property
    def history(self) -> int:
        """Number of keys that a chunk of queries needs before its own."""
        return self.span * QUERIES_PER_CHUNK


@dataclass(frozen=True)
class Layout:
    """Indices of T queries and N blocks in the rows of keys; the last T keys are those of the queries.

    first: (B or 1, T) index of the first token of each query's text; negative if it is no longer in the window.
    begins: (B or 1, N) index of each block's first token, ascending.
    history: number of keys before those of the queries, a multiple of QUERIES_PER_CHUNK.
    before: maximum over rows of the number of tokens before the first query.
    """

    first: Tensor
    begins: Tensor
    history: int = 0
    before: int = 0

    def visible(self, shape: Shape, queries: slice | Tensor, keys: slice, blocks: int) -> Tensor:
        """Mask (B or 1, 1, T, S + N·r) of `queries` over `keys` and the latents of the first `blocks` blocks.

        The query at position t of a text attends to block b with (b + 1)·m <= t and to token j with t - w < j <= t.
        """
        device = self.first.device
        index = queries if isinstance(queries, Tensor) else torch.arange(queries.start, queries.stop, device=device)
        query = index[:, None] + self.history
        key = torch.arange(keys.start, keys.stop, device=device)
        first = self.first[:, queries, None]
        begins = self.begins[:, None, :blocks]
        far = (begins + shape.block <= query) & (begins >= first)
        near = (key <= query) & (key > query - shape.window) & (key >= first)
        return torch.cat((near.expand(len(far), -1, -1), far.repeat_interleave(shape.latents, -1)), -1)[:, None]

    def intervals(self, shape: Shape) -> list[Interval]:
        """The same in intervals of indices of T tokens and then N·r latents, without a history."""
        length = self.first.shape[1]
        index = torch.arange(length, device=self.first.device).expand_as(self.first).contiguous()
        begins = self.begins.contiguous()
        near = (torch.maximum(self.first, index + 1 - shape.window), index + 1)
        blocks = (
            torch.searchsorted(begins, self.first),  # blocks of earlier texts
            torch.searchsorted(begins, index - shape.block, right=True),  # blocks that ended before the query
        )
        begin, end = (length + number * shape.latents for number in blocks)
        return [near, (begin, end)]


def layout_of(ctx: ForwardContext, shape: Shape) -> Layout:
    """The layout of rows without a cache, whose padding comes last."""
    length = ctx.positions.shape[1]
    index = torch.arange(length, device=ctx.positions.device)
    if ctx.start_pos == 0:
        return Layout(torch.zeros_like(index)[None], index[None, : length // shape.block] * shape.block)
    complete = (ctx.positions + 1) % shape.block == 0
    begins = torch.where(complete, index - shape.block + 1, length).sort(1).values
    return Layout(index - ctx.positions, begins[:, : length // shape.block])


def padding_last(ctx: ForwardContext) -> tuple[ForwardContext, Tensor]:
    """The context with padding moved to the end of each row, and the permutation (B, T) of tokens."""
    assert ctx.padding_mask is not None
    order = torch.argsort(~ctx.padding_mask, dim=1, stable=True)
    positions, valid = ctx.positions.gather(1, order), ctx.padding_mask.gather(1, order)
    documents = None if ctx.document_ids is None else ctx.document_ids.gather(1, order)
    return replace(ctx, positions=positions, padding_mask=valid, document_ids=documents), order


def gather_blocks(x: Tensor, begins: Tensor, block: int) -> Tensor:
    """The elements of x (B, S, ...) at each block's m tokens, (B, N, m, ...)."""
    index = begins[..., None] + torch.arange(block, device=x.device)
    rows = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return x[rows, index.clamp(max=x.shape[1] - 1)]


def compress(weights: Tensor, x: Tensor) -> Tensor:
    """Latents (B, N, r, G, D): sum over a block's tokens of weights (B, N, m, G, r) times x (B, N, m, G, D)."""
    return torch.einsum("bnmgr,bnmgd->bnrgd", weights.to(x.dtype), x)


def attend_in_chunks(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    layout: Layout,
    shape: Shape,
    masks: Sequence[Tensor],
) -> Tensor:
    """Attention of q (B, T, H, D), with one softmax over tokens and latents.

    keys, values: (those of tokens (B, S, G, D), those of latents (B, N·r, G, D)). masks: from `chunk_masks`. Each chunk
    of queries uses only the keys in its `reach`: O(T·(w + T·r/m)), without a T x T mask.
    """
    parts = []
    # split, not slices: the gradient of each slice would be a tensor of the whole row.
    (near_k, far_k), (near_v, far_v) = ((near.split(QUERIES_PER_CHUNK, 1), far) for near, far in (keys, values))
    for number, (part, mask) in enumerate(zip(q.split(QUERIES_PER_CHUNK, 1), masks, strict=True)):
        blocks, near = reach(number, part.shape[1], layout, shape)
        far = blocks * shape.latents
        k = torch.cat((*near_k[near], far_k[:, :far]), 1)
        v = torch.cat((*near_v[near], far_v[:, :far]), 1)
        parts.append(attend(part, k, v, mask))
    return torch.cat(parts, 1)


def chunk_masks(length: int, layout: Layout, shape: Shape) -> list[Tensor]:
    """The mask of each chunk of queries over the keys and latents in its `reach`."""
    masks = []
    for number, begin in enumerate(range(0, length, QUERIES_PER_CHUNK)):
        end = min(begin + QUERIES_PER_CHUNK, length)
        blocks, near = reach(number, end - begin, layout, shape)
        keys = slice(near.start * QUERIES_PER_CHUNK, layout.history + end)
        masks.append(layout.visible(shape, slice(begin, end), keys, blocks))
    return masks


def reach(number: int, length: int, layout: Layout, shape: Shape) -> tuple[int, slice]:
    """Number of blocks, and chunks of keys, that the `length` queries of chunk `number` can attend to."""
    last = layout.before + number * QUERIES_PER_CHUNK + length - 1
    own = number + layout.history // QUERIES_PER_CHUNK
    return min(layout.begins.shape[1], last // shape.block), slice(max(0, own - shape.span), own + 1)


def definition(
    ctx: ForwardContext, shape: Shape, scores: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference: keys, values (B, T + T·r, G, D) and mask (B, 1, T, T + T·r), from all pairs of tokens.

    After the T tokens come r latents per token, those of its block; the mask admits those of each block's last token.
    """
    positions = ctx.positions
    index = torch.arange(positions.shape[1], device=positions.device)
    valid = torch.ones_like(positions, dtype=torch.bool) if ctx.padding_mask is None else ctx.padding_mask
    documents = torch.zeros_like(positions) if ctx.document_ids is None else ctx.document_ids
    together = (documents[:, :, None] == documents[:, None]) & valid[:, None]
    number = positions // shape.block
    member = (together & (number[:, :, None] == number[:, None])) | (index == index[:, None])
    weights = scores[:, None].masked_fill(~member[..., None, None], -torch.inf).softmax(2)  # (B, T, T, G, r)
    k, v = (torch.cat((x, torch.einsum("bjigr,bigd->bjrgd", weights, x).flatten(1, 2)), 1) for x in (k, v))
    ends = valid & ((positions + 1) % shape.block == 0)
    past = together & ends[:, None] & (index < index[:, None])
    near = ctx.attention_mask(shape.window)
    assert isinstance(near, Tensor)
    far = past.repeat_interleave(shape.latents, -1)[:, None]
    return k, v, torch.cat((near.expand(len(far), -1, -1, -1), far), -1)
