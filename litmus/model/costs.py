"""What a model costs, measured on the model itself: FLOPs per token and cache bytes per token."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from litmus.model.decoder import Decoder
from litmus.model.plugins import LIMIT, plugin_faults, staying
from litmus.model.recipe import Recipe


def meta_model(recipe: Recipe) -> Decoder:
    """The model of a recipe on the meta device: shapes without values. Failed where a plug-in cannot be built so."""
    with plugin_faults(recipe, "building", seconds=LIMIT), torch.device("meta"):
        return Decoder(recipe)


def training_flops_per_token(recipe: Recipe, context: int | None = None) -> float:
    """Floating-point operations per trained token, forward and backward, counted by torch as the operators run.

    A multiply-add counts as 2. The count takes one sequence of `context` tokens through a copy of the model on the
    meta device, so that nothing is allocated.
    """
    length = context or recipe.context
    model = meta_model(recipe)
    with staying(), torch.device("meta"):
        tokens = torch.zeros(1, length, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        with counter:
            model.loss(tokens, tokens).total.backward()
    return counter.get_total_flops() / length


def scored_share(recipe: Recipe) -> float:
    """How much of a training batch's targets the recipe's loss is over; FLOPs per token / this are per scored token."""
    with torch.device("meta"):
        objective = recipe.objective.build(recipe.layer_contexts()[-1])
    return objective.scored_share


def cache_bytes_per_token(model: Decoder, capacity: int | None = None) -> float:
    """Bytes that the live cache buffers of one row take per token, at `capacity` tokens (default: the context)."""
    tokens = capacity or model.recipe.context
    return model.new_cache(1, tokens).bytes() / tokens
