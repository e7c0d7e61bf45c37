"""Attention of queries that stand apart, as at every k-th token, over the keys of all tokens, without a T x T mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.nn.attention.attend import attend
from litmus.nn.core.batch import use_reference
from litmus.nn.core.forward_context import ForwardContext

CHUNKS = 4
"""Into so many runs the queries are cut; each reads the keys up to its last query, so that 1/(2·CHUNKS) is wasted."""
LEAST, MOST = 64, 256
"""No run is shorter, as smaller products cost more in calls than they save in keys, nor longer, for its mask's sake."""


@dataclass(frozen=True)
class Places:
    """Where N queries of each row stand among the keys.

    index: (B or 1, N) the key at each query's own place. reach: for each query, on the host, a number of keys that
    holds all it may read; it never falls from one query to the next.
    """

    index: Tensor
    reach: Sequence[int]

    def some(self, queries: Tensor) -> Places:
        """Those of the queries with these numbers (n,), which rise."""
        return Places(self.index[:, queries], [self.reach[number] for number in queries.tolist()])

    def part(self, begin: int, end: int) -> Places:
        return Places(self.index[:, begin:end], self.reach[begin:end])


def attend_at(
    places: Places,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ctx: ForwardContext,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    query_scale: Tensor | None = None,
) -> Tensor:
    """softmax(factor · q·k / sqrt(D)) v of queries (B, N, H, D) over keys and values (B, S, G, D) up to their places.

    `own`, a key and a value (B, N, G, D) per query, takes the place of what is stored at the query's own place.
    The plain reference is one product under a mask (N, S); the fast path cuts the queries into runs with their keys.
    """
    count, fast = q.shape[1], not use_reference()
    if not count:  # as where every document ends before its first such token
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    size = min(MOST, max(LEAST, -(-count // CHUNKS))) if fast else count
    read = []
    for begin in range(0, count, size):
        end = min(begin + size, count)
        some, keys = places.part(begin, end), places.reach[end - 1] if fast else k.shape[1]
        k_read, v_read = k[:, :keys], v[:, :keys]
        if own is not None:
            k_read, v_read = (torch.cat((x, y[:, begin:end]), 1) for x, y in ((k_read, own[0]), (v_read, own[1])))
        mask = visible(some, keys, ctx, own=own is not None)
        weight = query_scale if query_scale is None else query_scale[:, begin:end]
        read.append(attend(q[:, begin:end], k_read, v_read, mask, weight))
    return torch.cat(read, dim=1)


def visible(places: Places, keys: int, ctx: ForwardContext, *, own: bool) -> Tensor:
    """Which of the first `keys` keys each query reads, (B or 1, 1, N, keys), and with `own` its own behind them."""
    index = places.index[..., None]
    place = torch.arange(keys, device=index.device)
    mask = place < index
    if ctx.cache is None and ctx.padding_mask is not None:
        mask = mask & ctx.padding_mask[:, None, :keys]
    if ctx.cache is None and ctx.document_ids is not None:
        document = ctx.document_ids.gather(1, places.index.expand(len(ctx.document_ids), -1))
        mask = mask & (ctx.document_ids[:, None, :keys] == document[..., None])
    if not own:
        return (mask | (place == index))[:, None]
    itself = torch.eye(index.shape[1], dtype=torch.bool, device=index.device).expand(len(mask), -1, -1)
    return torch.cat((mask, itself), dim=-1)[:, None]
