"""Sizes that no memory holds, found before anything is built: from one layer of each kind, which takes no memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from litmus.errors import BadInput
from litmus.model.plugins import LIMIT, plugin_faults
from litmus.model.recipe import Recipe
from litmus.runtime.memory import total_bytes

PLENTY = 100
"""Times the memory of this machine from which on a size is refused. What is estimated are lower bounds, and swap space
or a graphics card may hold more than this machine; far above it nothing would come but a hang or a kill."""

WEIGHT, TRAINED = 4, 16
"""Bytes for a parameter in fp32, and with its gradient and two figures of AdamW."""

KEPT = 16
"""Bytes that one layer keeps for each number of a token's vector until its backward pass: far fewer than any does."""


def check_built(recipe: Recipe) -> None:
    """BadInput where a machine with PLENTY times this one's memory could not hold the weights."""
    largest = sorted(_numbers(recipe.to_dict()))[-3:]
    if 4 * WEIGHT * recipe.depth * math.prod(largest) < PLENTY * total_bytes():
        return  # of an ordinary size: no tensor has more than three of its numbers for a shape
    _check(recipe, _parameters(recipe) * WEIGHT, "its weights")


def check_trained(recipe: Recipe, batch: int, context: int | None = None) -> None:
    """BadInput where such a machine could not train `recipe` on `batch` sequences of `context` tokens at a time."""
    with plugin_faults(recipe, "building", seconds=LIMIT):
        parameters = _parameters(recipe)
    _check(recipe, parameters * TRAINED, "training it")
    length = context or recipe.context
    activations = batch * length * (KEPT * recipe.dim * recipe.depth + 16)
    _check(recipe, activations, f"training it on {batch} sequences of {length} tokens at a time")


def check_memory(needed: float, what: str) -> None:
    """BadInput where `what` needs more than PLENTY times this machine's memory, in bytes."""
    here = total_bytes()
    if needed > PLENTY * here:
        raise BadInput(f"{what} would take about {_readable(needed)}, and this machine has {_readable(here)}")


def _check(recipe: Recipe, needed: int, what: str) -> None:
    sizes = f"depth {recipe.depth}, dim {recipe.dim}, vocabulary {recipe.vocab_size}, context {recipe.context}"
    check_memory(needed, f"recipe {recipe.name!r} ({sizes}) is too large: {what}")


def _parameters(recipe: Recipe) -> int:
    """At least so many parameters and buffers, counted without allocating any, however many layers there are."""
    number = 0
    with plugin_faults(recipe, "building", seconds=LIMIT):
        try:
            with torch.device("meta"):
                first = 0
                for repeat, parts in recipe.groups():
                    layer = recipe.layer_context(first, parts)
                    if first == 0:
                        number += _size(recipe.embedding.build(layer)) + _size(recipe.positions.build(layer))
                        number += 0 if recipe.head.tied else _size(recipe.head.build(layer))
                    number += (1 if parts["shared"] else repeat) * _size(layer.new_layer())
                    first += repeat
        except (RuntimeError, OverflowError, TypeError):
            largest = max(_numbers(recipe.to_dict()), default=0)
            if largest < 2**31:
                raise  # no matter of size
            raise BadInput(
                f"recipe {recipe.name!r} is too large: with {largest} in it one layer has more than 2^63 bytes"
            ) from None
    return number


def _size(module: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int):
        yield abs(value)


def _readable(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} EB" if count < 1e6 else f"{count:.3g} EB"
