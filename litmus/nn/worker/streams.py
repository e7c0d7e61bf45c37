"""The two streams of a worker model: the memory of all tokens, and the queries, whose predictions are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from litmus.nn.attention.spaced import QueryIndex
from litmus.nn.core.forward_context import ForwardContext


@dataclass(frozen=True)
class Group:
    """Queries of one type.

    ctx: the context of these N tokens per row. queries: their index and reach among the keys. index: (B, N) index in
    the row, None if they are all tokens in order. real: (B, N) False where a row has fewer than N. in_memory: they are
    the workers of the memory, so that their keys and values are those of the memory.
    """

    ctx: ForwardContext
    queries: QueryIndex
    index: Tensor | None = None
    real: Tensor | None = None
    in_memory: bool = False

    def of(self, states: Tensor) -> Tensor:
        """Select these tokens (B, N, dim) from the states of all tokens (B, T, dim)."""
        return states if self.index is None else states.take_along_dim(self.index[..., None], 1)

    def per_token(self, values: Tensor, missing: Any) -> Tensor:
        """Select these tokens (B, N) from values (B, T), with `missing` where a row has fewer of them."""
        if self.index is None or self.real is None:
            return values
        return values.gather(1, self.index).masked_fill(~self.real, missing)


@dataclass(frozen=True)
class QuerySet:
    """All N queries, in groups; `ctx` is their context, `workers` (B, T) the mask of workers in the memory."""

    groups: list[Group]
    ctx: ForwardContext
    workers: Tensor

    def of(self, states: Tensor) -> Tensor:
        """Select the queries (B, N, dim) from the states of all tokens (B, T, dim)."""
        return torch.cat([group.of(states) for group in self.groups], dim=1)


def all_tokens(ctx: ForwardContext, workers: Tensor) -> QuerySet:
    """Every token as a query: evaluation, decoding, and training with objectives that score every token."""
    length = ctx.positions.shape[1]
    index = ctx.positions if ctx.cache else torch.arange(length, device=ctx.positions.device)[None]
    first = ctx.start_pos if ctx.cache else 0
    reach = [ctx.kv_len] * length if first is None else range(first + 1, first + length + 1)
    return QuerySet([Group(ctx, QueryIndex(index, reach))], ctx, workers)


def sampled(
    ctx: ForwardContext, workers: Tensor, interval: int, non_workers: Tensor | None = None, stride: int = 1
) -> QuerySet:
    """Queries at the workers of the memory (B, T), one in `interval`, and at `non_workers` (B, T), one in `stride`."""
    groups = [_group(workers, interval, ctx, in_memory=True)]
    if non_workers is not None:
        groups.append(_group(non_workers, stride, ctx, in_memory=False))
    of_queries = _context_of(torch.cat([group.queries.index for group in groups], dim=1), ctx)
    if ctx.aux_losses is not None:
        counted = torch.cat([group.per_token(ctx.aux_losses.counted, False) for group in groups], dim=1)
        of_queries = replace(of_queries, aux_losses=replace(ctx.aux_losses, counted=counted))
    return QuerySet(groups, of_queries, workers)


def _group(chosen: Tensor, stride: int, ctx: ForwardContext, *, in_memory: bool) -> Group:
    """The tokens where `chosen` (B, T) is True; without padding and documents these are every `stride`-th."""
    length = chosen.shape[1]
    regular = ctx.start_pos is not None
    most = math.ceil(length / stride) if regular else int(chosen.sum(1).max())
    index = chosen.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    reach: Any = [min(length, stride * (number + 1)) for number in range(most)]
    if not regular:
        reach = (index.amax(0).cummax(0).values + 1).tolist() if most else []
    return Group(_context_of(index, ctx), QueryIndex(index, reach), index, chosen.gather(1, index), in_memory)


def _context_of(index: Tensor, ctx: ForwardContext) -> ForwardContext:
    """The context of the tokens at index (B, N) only."""
    return ForwardContext(ctx.positions.gather(1, index), None, observed=ctx.observed)
