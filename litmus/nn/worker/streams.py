"""The two streams of a worker model: what is remembered of every token, and the tokens asked for a prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from litmus.nn.attention.spaced import Places
from litmus.nn.core.aux_losses import AuxLosses
from litmus.nn.core.forward_context import ForwardContext


@dataclass(frozen=True)
class Group:
    """Tokens that are asked for a prediction in the same way.

    ctx: positions and all that belongs to these tokens, (B, N). index: (B, N) where they stand, None when they are
    all tokens in order. real: (B, N) False where a row has fewer of them. in_memory: they are the memory's own workers,
    so that what the memory holds at their places is what they make themselves.
    """

    ctx: ForwardContext
    places: Places
    index: Tensor | None = None
    real: Tensor | None = None
    in_memory: bool = False

    def of(self, states: Tensor) -> Tensor:
        """The states (B, N, ...) of these tokens among those of all tokens (B, T, ...)."""
        return states if self.index is None else rows(states, self.index)

    def per_token(self, values: Tensor, missing: Any) -> Tensor:
        """Their values (B, N) among those of all tokens (B, T), `missing` where a row has fewer of them."""
        return self.of(values) if self.real is None else self.of(values).masked_fill(~self.real, missing)


@dataclass(frozen=True)
class QuerySet:
    """All tokens that are asked, group by group; `workers` (B, T) says who is a worker in the memory."""

    groups: list[Group]
    ctx: ForwardContext
    workers: Tensor


@dataclass
class TwoStreamState:
    """The memory (B, T, dim) as it is between two layers, and who is asked; the vectors of the asked are passed on."""

    memory: Tensor
    query_set: QuerySet


@dataclass(frozen=True)
class QueryAuxLosses(AuxLosses):
    """The terms of a loss that asks some tokens only: layers return vectors (B, N, dim) for these."""

    query_set: QuerySet | None = None


def all_tokens(ctx: ForwardContext, workers: Tensor) -> QuerySet:
    """Every token is asked: evaluation, decoding, and training by any objective that scores every token."""
    length = ctx.positions.shape[1]
    index = ctx.positions if ctx.cache else torch.arange(length, device=ctx.positions.device)[None]
    first = ctx.start_pos if ctx.cache else 0
    reach = [ctx.kv_len] * length if first is None else range(first + 1, first + length + 1)
    return QuerySet([Group(ctx, Places(index, reach))], ctx, workers)


def sampled(
    ctx: ForwardContext, workers: Tensor, interval: int, non_workers: Tensor | None = None, stride: int = 1
) -> QuerySet:
    """The memory's workers (B, T), one in `interval` tokens, and `non_workers` (B, T), one in `stride` tokens."""
    groups = [_group(workers, interval, ctx, in_memory=True)]
    if non_workers is not None:
        groups.append(_group(non_workers, stride, ctx, in_memory=False))
    index = torch.cat([group.places.index for group in groups], dim=1)
    return QuerySet(groups, _context_of(index, ctx), workers)


def counting(terms: AuxLosses, query_set: QuerySet) -> QueryAuxLosses:
    """The terms of a loss over the tokens asked; layers then see which of these count, (B, N)."""
    counted = torch.cat([group.per_token(terms.counted, False) for group in query_set.groups], dim=1)
    of_queries = replace(query_set, ctx=replace(query_set.ctx, aux_losses=AuxLosses(counted, terms.values)))
    return QueryAuxLosses(terms.counted, terms.values, terms.scored, of_queries)


def rows(states: Tensor, index: Tensor) -> Tensor:
    """The states (B, N, ...) at index (B, N) of states (B, T, ...)."""
    if states.ndim == 2:
        return states.gather(1, index)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _group(chosen: Tensor, stride: int, ctx: ForwardContext, *, in_memory: bool) -> Group:
    """The tokens where `chosen` (B, T) is True; in rows without padding and documents, every `stride`-th."""
    length = chosen.shape[1]
    regular = ctx.start_pos is not None
    most = math.ceil(length / stride) if regular else int(chosen.sum(1).max())
    index = chosen.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    reach: Any = [min(length, stride * (number + 1)) for number in range(most)]
    if not regular:
        reach = (index.amax(0).cummax(0).values + 1).tolist() if most else []
    return Group(_context_of(index, ctx), Places(index, reach), index, chosen.gather(1, index), in_memory)


def _context_of(index: Tensor, ctx: ForwardContext) -> ForwardContext:
    """The step of the tokens at index (B, N) alone."""
    return ForwardContext(ctx.positions.gather(1, index), None, observed=ctx.observed)
