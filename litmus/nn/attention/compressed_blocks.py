"""What compressed attention reads: blocks of tokens made into latents, and the latest tokens as they are.

Everything here is counted in places of a row of keys. Padding has been moved to the end of the row, so that the tokens
of a text stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litmus.nn.attention.attend import attend
from litmus.nn.core.forward_context import ForwardContext

CHUNK = 128
"""Queries that are answered together. They read the tokens of the window before the first of them to the last of them:
fewer at a time read less in vain, more at a time make larger products."""


@dataclass(frozen=True)
class Shape:
    """Blocks of `block` tokens become `latents` each; a query reads `window` tokens as they are, itself the last."""

    block: int
    latents: int
    window: int

    def keys(self, positions: Tensor) -> Tensor:
        """How many keys the tokens at `positions` read."""
        return positions // self.block * self.latents + (positions + 1).clamp(max=self.window)

    @property
    def span(self) -> int:
        """How many chunks of keys before its own the window of a chunk of queries reaches into."""
        return -(-(self.window - 1) // CHUNK)

    @property
    def history(self) -> int:
        """How many keys a chunk of queries needs before its own."""
        return self.span * CHUNK


@dataclass(frozen=True)
class Layout:
    """Where the T queries and N blocks of a step stand in the rows of keys; the queries' own keys are the last T.

    first: (B or 1, T) place of the first token of each query's text; negative where it is held no longer.
    begins: (B or 1, N) place of each block's first token, ascending.
    history: how many keys stand before those of the queries, a multiple of CHUNK.
    before: how many tokens of its text come before a row's first query, at most.
    """

    first: Tensor
    begins: Tensor
    history: int = 0
    before: int = 0

    def visible(self, shape: Shape, queries: slice | Tensor, keys: slice, blocks: int) -> Tensor:
        """Which `keys` and which latents of the first `blocks` each of `queries` reads, (B or 1, 1, T, S + N·r).

        In positions t and j of one text, block b and token j: (b + 1)·m <= t and t - w < j <= t.
        """
        device = self.first.device
        numbers = queries if isinstance(queries, Tensor) else torch.arange(queries.start, queries.stop, device=device)
        query = numbers[:, None] + self.history
        key = torch.arange(keys.start, keys.stop, device=device)
        first = self.first[:, queries, None]
        begins = self.begins[:, None, :blocks]
        whole = (begins + shape.block <= query) & (begins >= first)
        near = (key <= query) & (key > query - shape.window) & (key >= first)
        return torch.cat((near.expand(len(whole), -1, -1), whole.repeat_interleave(shape.latents, -1)), -1)[:, None]


def layout(ctx: ForwardContext, shape: Shape) -> Layout:
    """The layout of whole rows, from position 0 on, whose padding comes last."""
    length = ctx.positions.shape[1]
    place = torch.arange(length, device=ctx.positions.device)
    if ctx.start_pos == 0:
        return Layout(torch.zeros_like(place)[None], place[None, : length // shape.block] * shape.block)
    complete = (ctx.positions + 1) % shape.block == 0
    begins = torch.where(complete, place - shape.block + 1, length).sort(1).values
    return Layout(place - ctx.positions, begins[:, : length // shape.block])


def real_first(ctx: ForwardContext) -> tuple[ForwardContext, Tensor]:
    """The step with padding moved behind the real tokens of each row, and the order (B, T) that does so."""
    assert ctx.padding_mask is not None
    order = torch.argsort(~ctx.padding_mask, dim=1, stable=True)
    positions, valid = ctx.positions.gather(1, order), ctx.padding_mask.gather(1, order)
    documents = None if ctx.document_ids is None else ctx.document_ids.gather(1, order)
    return replace(ctx, positions=positions, padding_mask=valid, document_ids=documents), order


def blocks_of(x: Tensor, begins: Tensor, block: int) -> Tensor:
    """The vectors x (B, S, ...) of each block's tokens, (B, N, m, ...)."""
    places = begins[..., None] + torch.arange(block, device=x.device)
    rows = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return x[rows, places.clamp(max=x.shape[1] - 1)]


def compress(weights: Tensor, x: Tensor) -> Tensor:
    """sum over a block's tokens of weights (B, N, m, G, r) times x (B, N, m, G, D), as latents (B, N, r, G, D)."""
    return torch.einsum("bnmgr,bnmgd->bnrgd", weights.to(x.dtype), x)


def read_in_chunks(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    layout: Layout,
    shape: Shape,
    masks: Sequence[Tensor],
) -> Tensor:
    """One softmax over latents and tokens for q (B, T, H, D); keys and values are (tokens, latents (B, N·r, G, D)).

    Each chunk of queries reads what it can reach, by its mask of `chunk_masks`: O(T·(w + T·r/m)) and no T x T mask.
    """
    parts = []
    # Split, and not sliced: the gradient of a slice is as long as the row.
    (near_k, far_k), (near_v, far_v) = ((near.split(CHUNK, 1), far) for near, far in (keys, values))
    for number, (part, mask) in enumerate(zip(q.split(CHUNK, 1), masks, strict=True)):
        blocks, near = reach(number, part.shape[1], layout, shape)
        far = blocks * shape.latents
        k = torch.cat((*near_k[near], far_k[:, :far]), 1)
        v = torch.cat((*near_v[near], far_v[:, :far]), 1)
        parts.append(attend(part, k, v, mask))
    return torch.cat(parts, 1)


def chunk_masks(length: int, layout: Layout, shape: Shape) -> list[Tensor]:
    """What the queries of each chunk read of what the chunk reaches."""
    masks = []
    for number, begin in enumerate(range(0, length, CHUNK)):
        end = min(begin + CHUNK, length)
        blocks, near = reach(number, end - begin, layout, shape)
        keys = slice(near.start * CHUNK, layout.history + end)
        masks.append(layout.visible(shape, slice(begin, end), keys, blocks))
    return masks


def reach(number: int, length: int, layout: Layout, shape: Shape) -> tuple[int, slice]:
    """How many blocks, and which chunks of keys, the `length` queries of chunk `number` can see."""
    last = layout.before + number * CHUNK + length - 1
    own = number + layout.history // CHUNK
    return min(layout.begins.shape[1], last // shape.block), slice(max(0, own - shape.span), own + 1)


def definition(
    ctx: ForwardContext, shape: Shape, scores: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values (B, T + T·r, G, D) and who reads what, (B, 1, T, T + T·r), spelled out over all pairs of tokens.

    A block is known by its last token: behind the tokens come r latents for each, which count where a block ends.
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
