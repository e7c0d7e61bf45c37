"""Statistics of a router: the load of each expert, and how evenly it is spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.moe.routers import Routing, assignments, counted_tokens


@dataclass(frozen=True)
class RouterStats:
    """How evenly one layer's router spreads its tokens.

    load: each expert's share of all assignments. max_violation: (highest load - mean) / mean, 0 when even
    (Wang et al. 2024, arXiv 2408.15664). entropy: of a token's scores for the
    experts, mean in nats. dead: number of experts without a token.
    """

    load: list[float]
    max_violation: float
    entropy: float
    dead: int


def record_routing(routing: Routing, ctx: ForwardContext) -> None:
    """Record in `ctx.observed` how often one layer chose each expert (E,), and (sum of entropies, tokens)."""
    assert ctx.observed is not None
    counted = counted_tokens(ctx).flatten()
    entropy = (torch.special.entr(routing.shares).sum(-1) * counted).sum()
    ctx.observed.setdefault("expert_choices", []).append(assignments(routing, counted[None])[0])
    ctx.observed.setdefault("router_entropy", []).append(torch.stack((entropy, counted.sum().to(entropy.dtype))))


def router_stats(passes: Sequence[Mapping[str, list[Tensor]]]) -> list[RouterStats]:
    """The statistics of each layer that has a router, first to last, over all these forward passes."""
    choices = zip(*(observed.get("expert_choices", []) for observed in passes), strict=True)
    entropies = zip(*(observed.get("router_entropy", []) for observed in passes), strict=True)
    return [
        _stats(torch.stack(counts).sum(0), torch.stack(entropy).sum(0))
        for counts, entropy in zip(choices, entropies, strict=True)
    ]


def _stats(count: Tensor, entropy: Tensor) -> RouterStats:
    load = (count / count.sum().clamp(min=1)).tolist()
    total, tokens = entropy.tolist()
    return RouterStats(load, max(load) * len(load) - 1, total / max(tokens, 1), load.count(0.0))
