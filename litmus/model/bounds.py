"""Checks that models and training fit into memory, from one layer of each group on the meta device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from litmus.errors import BadInput
from litmus.model.plugins import MAX_PLUGIN_SECONDS, plugin_faults
from litmus.model.recipe import Recipe
from litmus.runtime.memory import total_bytes
from litmus.runtime.meta import meta_device

MAX_MEMORY_RATIO = 100
"""Requirements above this multiple of the machine's memory are refused. Estimates are lower bounds, and swap space or a
GPU may hold more than the memory of this machine; far above it the process would hang or be killed."""

BYTES_PER_WEIGHT, BYTES_PER_TRAINED_WEIGHT = 4, 16
"""Size of a parameter in fp32, without and with its gradient and the two moments of AdamW."""

MIN_ACTIVATION_BYTES = 16
"""Lower bound of the activations that a layer stores for backward, per token and element of `dim`."""


def check_built(recipe: Recipe) -> None:
    """BadInput if the weights exceed MAX_MEMORY_RATIO times this machine's memory."""
    largest = sorted(_integers(recipe.to_dict()))[-3:]
    if 4 * BYTES_PER_WEIGHT * recipe.depth * math.prod(largest) < MAX_MEMORY_RATIO * total_bytes():
        return  # small enough for sure: a shape is a product of at most three sizes of the recipe
    _check(recipe, _parameters(recipe) * BYTES_PER_WEIGHT, "its weights")


def check_trained(recipe: Recipe, batch: int, context: int | None = None) -> None:
    """BadInput if training on `batch` sequences of `context` tokens at a time exceeds MAX_MEMORY_RATIO."""
    with plugin_faults(recipe, "building", seconds=MAX_PLUGIN_SECONDS):
        parameters = _parameters(recipe)
    _check(recipe, parameters * BYTES_PER_TRAINED_WEIGHT, "training it")
    length = context or recipe.context
    activations = batch * length * (MIN_ACTIVATION_BYTES * recipe.dim * recipe.depth + 16)
    _check(recipe, activations, f"training it on {batch} sequences of {length} tokens at a time")


def check_memory(needed: float, what: str) -> None:
    """BadInput if `what` needs more than MAX_MEMORY_RATIO times this machine's memory; `needed` is in bytes."""
    here = total_bytes()
    if needed > MAX_MEMORY_RATIO * here:
        raise BadInput(f"{what} would take about {_readable(needed)}, and this machine has {_readable(here)}")


def _check(recipe: Recipe, needed: int, what: str) -> None:
    sizes = f"depth {recipe.depth}, dim {recipe.dim}, vocabulary {recipe.vocab_size}, context {recipe.context}"
    check_memory(needed, f"recipe {recipe.name!r} ({sizes}) is too large: {what}")


def _parameters(recipe: Recipe) -> int:
    """Lower bound of the number of elements in parameters and buffers, in time independent of the depth."""
    number = 0
    if recipe.embedding.kind == "table":
        _check(recipe, recipe.vocab_size * recipe.dim * BYTES_PER_WEIGHT, "its embedding")
    with plugin_faults(recipe, "building", seconds=MAX_PLUGIN_SECONDS):
        try:
            with meta_device():
                first = 0
                for repeat, parts in recipe.groups():
                    layer = recipe.layer_context(first, parts)
                    if first == 0:
                        number += _size(recipe.embedding.build(layer)) + _size(recipe.positions.build(layer))
                        number += 0 if recipe.head.tied else _size(recipe.head.build(layer))
                    number += (1 if parts["shared"] else repeat) * _size(layer.new_layer())
                    first += repeat
        except (RuntimeError, OverflowError, TypeError):
            largest = max(_integers(recipe.to_dict()), default=0)
            if largest < 2**31:
                raise  # not caused by a size
            raise BadInput(
                f"recipe {recipe.name!r} is too large: with {largest} in it one layer has more than 2^63 bytes"
            ) from None
    return number


def _size(module: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _integers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _integers(inner)
    elif isinstance(value, int):
        yield abs(value)


def _readable(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} EB" if count < 1e6 else f"{count:.3g} EB"
