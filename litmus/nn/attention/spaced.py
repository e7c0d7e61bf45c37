"""Attention of a subset of the queries, such as every k-th, over the keys of all tokens, without a T x T mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.nn.attention.attend import attend
from litmus.nn.core.batch import use_reference
from litmus.nn.core.forward_context import ForwardContext

TARGET_CHUNKS = 4
"""Number of chunks of queries. A chunk uses the keys up to its last query, of which about 1/(2·TARGET_CHUNKS) are
masked."""
MIN_QUERIES_PER_CHUNK, MAX_QUERIES_PER_CHUNK = 64, 256
"""In smaller chunks the overhead of calls exceeds the time saved on keys; larger ones have large masks."""


@dataclass(frozen=True)
class QueryIndex:
    """Which N tokens of each row are queries.

    index: (B or 1, N) index of each query among the keys. reach: for each query, on the host, an upper bound of the
    number of keys up to its own; non-decreasing.
    """

    index: Tensor
    reach: Sequence[int]

    def subset(self, queries: Tensor) -> QueryIndex:
        """The queries with these numbers (n,), in ascending order."""
        return QueryIndex(self.index[:, queries], [self.reach[number] for number in queries.tolist()])

    def chunk(self, begin: int, end: int) -> QueryIndex:
        return QueryIndex(self.index[:, begin:end], self.reach[begin:end])


def attend_at(
    at: QueryIndex,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ctx: ForwardContext,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    query_scale: Tensor | None = None,
) -> Tensor:
    """softmax(query_scale · q·k / sqrt(D)) v of queries (B, N, H, D) over the keys and values (B, S, G, D) up to each.

    `own`, a key and a value (B, N, G, D) per query, replaces the key and value at the query's index.
    The reference is one attention with a mask (N, S); the fast path computes chunks of queries with their keys.
    """
    count, fast = q.shape[1], not use_reference()
    if not count:  # e.g. no document is long enough for such a token
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    size = min(MAX_QUERIES_PER_CHUNK, max(MIN_QUERIES_PER_CHUNK, -(-count // TARGET_CHUNKS))) if fast else count
    outputs = []
    for begin in range(0, count, size):
        end = min(begin + size, count)
        chunk, keys = at.chunk(begin, end), at.reach[end - 1] if fast else k.shape[1]
        chunk_k, chunk_v = k[:, :keys], v[:, :keys]
        if own is not None:
            chunk_k, chunk_v = (torch.cat((x, y[:, begin:end]), 1) for x, y in ((chunk_k, own[0]), (chunk_v, own[1])))
        mask = visible(chunk, keys, ctx, own=own is not None)
        scale = query_scale if query_scale is None else query_scale[:, begin:end]
        outputs.append(attend(q[:, begin:end], chunk_k, chunk_v, mask, scale))
    return torch.cat(outputs, dim=1)


def visible(at: QueryIndex, keys: int, ctx: ForwardContext, *, own: bool) -> Tensor:
    """Mask (B or 1, 1, N, keys) of each query over the first `keys` keys; with `own`, N columns more for own keys."""
    index = at.index[..., None]
    key = torch.arange(keys, device=index.device)
    mask = key < index
    if ctx.cache is None and ctx.padding_mask is not None:
        mask = mask & ctx.padding_mask[:, None, :keys]
    if ctx.cache is None and ctx.document_ids is not None:
        document = ctx.document_ids.gather(1, at.index.expand(len(ctx.document_ids), -1))
        mask = mask & (ctx.document_ids[:, None, :keys] == document[..., None])
    if not own:
        return (mask | (key == index))[:, None]
    itself = torch.eye(index.shape[1], dtype=torch.bool, device=index.device).expand(len(mask), -1, -1)
    return torch.cat((mask, itself), dim=-1)[:, None]
