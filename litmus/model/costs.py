"""Costs of a model, measured on the model: FLOPs per token and cache bytes per token."""

from __future__ import annotations

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from litmus.model.decoder import Decoder
from litmus.model.plugins import MAX_PLUGIN_SECONDS, plugin_faults, restored_cwd
from litmus.model.recipe import Recipe
from litmus.runtime.meta import meta_device


def meta_model(recipe: Recipe) -> Decoder:
    """Build the model of a recipe on the meta device (shapes without values); Failed if a plug-in cannot be."""
    with plugin_faults(recipe, "building", seconds=MAX_PLUGIN_SECONDS), meta_device():
        return Decoder(recipe)


def training_flops_per_token(recipe: Recipe, context: int | None = None) -> float:
    """Floating-point operations per training token, forward and backward, counted by torch per operator.

    A multiply-add counts as 2. The count is for one sequence of `context` tokens in a model on the meta device, without
    allocating memory; with real tensors if shapes depend on values.
    """
    length = context or recipe.context
    try:
        return _counted_flops(meta_model(recipe), length, meta_device()) / length
    except (NotImplementedError, RuntimeError):  # shapes that depend on values, as of tokens selected by an index
        with plugin_faults(recipe, "building", seconds=MAX_PLUGIN_SECONDS), torch.random.fork_rng(devices=[]):
            model = Decoder(recipe).double()  # the FLOPs of fused fp32 kernels are not counted
        return _counted_flops(model, length, torch.device("cpu")) / length


def _counted_flops(model: Decoder, length: int, device: contextlib.AbstractContextManager[object]) -> int:
    """FLOPs of a forward and backward pass of one sequence, whose tensors are made within `device`."""
    real = model.device.type != "meta"
    with restored_cwd(), device:
        tokens = torch.arange(length)[None] % model.recipe.vocab_size if real else torch.zeros(1, length).long()
        counted = sdpa_kernel(SDPBackend.MATH) if real else contextlib.nullcontext()
        with FlopCounterMode(display=False) as counter, counted:
            model.loss(tokens, tokens).total.backward()
    return counter.get_total_flops()


def scored_share(recipe: Recipe) -> float:
    """Fraction of the targets that the recipe's loss scores; FLOPs per token / fraction = FLOPs per scored token."""
    with meta_device():
        objective = recipe.objective.build(recipe.layer_contexts()[-1])
    return objective.scored_share


def cache_bytes_per_token(model: Decoder, capacity: int | None = None) -> float:
    """Bytes of the allocated cache of one row per token, at `capacity` tokens (default: the context)."""
    tokens = capacity or model.recipe.context
    return model.new_cache(1, tokens).bytes() / tokens
