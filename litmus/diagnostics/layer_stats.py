"""Attention entropy, activation maxima, gates and expert load of each layer, from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.model import Decoder
from litmus.nn.moe.stats import RouterStats, router_stats

LAYER_STATS = {
    "attention_entropy": "Entropy of a query's attention weights, mean in nats: 0 if it reads one token only.",
    "first_token_attention": "Attention weight of the first token, mean over queries: large at an attention sink.",
    "largest_activation": "Largest absolute value in the residual stream after the layer.",
    "mean_gate": "Mean score of the attention gate: 0 blocks everything, 1 lets everything through.",
    "processed_share": "Fraction of the tokens that a routed layer processes.",
}
"""The statistics that layers record in `ctx.observed`, one number for each layer that has it."""


@dataclass(frozen=True)
class LayerStats:
    """stats: values by name (of LAYER_STATS) and layer number. routing: load of the experts by layer number."""

    stats: dict[str, dict[int, float]]
    routing: dict[int, RouterStats]


@torch.no_grad()
def layer_stats(model: Decoder, tokens: Tensor) -> LayerStats:
    """The statistics of every layer that has them, over tokens (B, T)."""
    observed: dict[int, dict[str, list[Tensor]]] = {}
    model.hidden(tokens, observed=observed)
    by_name = {
        name: {
            number: float(torch.stack(recorded[name]).mean())
            for number, recorded in observed.items()
            if name in recorded
        }
        for name in LAYER_STATS
    }
    return LayerStats(
        {name: values for name, values in by_name.items() if values},
        {number: router for number, recorded in observed.items() for router in router_stats([recorded])},
    )
