"""Statistics of routers: the load of each expert, and its balance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.moe.routers import Routing, assignments, counted_tokens


@dataclass(frozen=True)
class RouterStats:
    """Load balance of one layer's router.

    load: fraction of all assignments of each expert. max_violation: (highest load - mean) / mean, 0 if balanced
    (Wang et al. 2024, arXiv 2408.15664). entropy: entropy in nats of a token's normalized scores, mean over tokens.
    dead: number of experts without tokens.
    """

    load: list[float]
    max_violation: float
    entropy: float
    dead: int


def record_routing(routing: Routing, ctx: ForwardContext) -> None:
    """Record the assignments of each expert (E,) and (sum of entropies, tokens) of one layer in `ctx.observed`."""
    assert ctx.observed is not None
    counted = counted_tokens(ctx).flatten()
    entropy = (torch.special.entr(routing.shares).sum(-1) * counted).sum()
    ctx.observed.setdefault("expert_choices", []).append(assignments(routing, counted[None])[0])
    ctx.observed.setdefault("router_entropy", []).append(torch.stack((entropy, counted.sum().to(entropy.dtype))))


def router_stats(passes: Sequence[Mapping[str, list[Tensor]]]) -> list[RouterStats]:
    """Statistics of each layer with a router, first to last, over several forward passes."""
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
