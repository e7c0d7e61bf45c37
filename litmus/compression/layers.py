"""The same model with fewer or more layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from litmus.errors import BadInput
from litmus.model import Decoder, Recipe
from litmus.model.recipe import LayerGroup, validated
from litmus.model.storage import load_weights, weights


def with_layers(recipe: Recipe, kept: Sequence[int]) -> Recipe:
    """The recipe whose layers are those of `recipe` at the indices `kept`, in that order; an index may occur twice.

    BadInput if layers share their weights, which one of them cannot leave.
    """
    groups = [
        group for group, (repeat, _) in zip(_nonempty(recipe), recipe.groups(), strict=True) for _ in range(repeat)
    ]
    if any(group.shared for group in groups):
        raise BadInput(f"layers of {recipe.name!r} share their weights, so that single ones cannot be added or removed")
    runs: list[tuple[LayerGroup, int]] = []
    for index in kept:
        if runs and runs[-1][0] is groups[index]:
            runs[-1] = groups[index], runs[-1][1] + 1
        else:
            runs.append((groups[index], 1))
    layers = [{**group.model_dump(exclude_none=True), "repeat": count} for group, count in runs]
    if len(runs) == 1:
        layers[0]["repeat"] = "rest"
    return validated({**recipe.to_dict(), "depth": len(kept), "layers": layers})


def _nonempty(recipe: Recipe) -> list[LayerGroup]:
    """The layer groups that have a layer, in the order of `Recipe.groups`."""
    sizes = [recipe.depth // 2 if group.repeat == "half" else group.repeat for group in recipe.layers]
    counted = sum(size for size in sizes if size != "rest")
    return [
        group
        for group, size in zip(recipe.layers, sizes, strict=True)
        if (recipe.depth - counted if size == "rest" else size) > 0
    ]


def model_with_layers(model: Decoder, kept: Sequence[int | None], *, seed: int = 0) -> Decoder:
    """A copy of the model with the layers `kept`, by index; None is a new layer like the first, initialized anew."""
    recipe = with_layers(model.recipe, [0 if index is None else index for index in kept])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Decoder(recipe)
    made.to(model.device, model.dtype).train(model.training)
    tensors = {}
    ours = weights(model)
    for name, tensor in weights(made).items():
        part, _, rest = name.partition(".")
        if part != "layers":
            tensors[name] = ours[name]
            continue
        number, _, rest = rest.partition(".")
        index = kept[int(number)]
        tensors[name] = tensor.detach() if index is None else ours[f"layers.{index}.{rest}"]
    load_weights(made, tensors, "the model")
    return made
