"""Models on disk: a folder with recipe.yaml and model.safetensors (and the plug-in's source, if there is one)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from litmus.errors import BadInput
from litmus.limits import TimeLimitExceeded, timeout
from litmus.locks import folder_replaced
from litmus.model.decoder import Decoder
from litmus.model.plugins import COPY, LIMIT, declare_plugin, plugin_code, plugin_faults
from litmus.model.recipe import Recipe, plugin_source, validated
from litmus.nn.objectives.objective import NextTokenConfig
from litmus.yaml_json import mapping, read_yaml

RECIPE, WEIGHTS = "recipe.yaml", "model.safetensors"
KIND = "saved model"

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The types whose numbers may be copied into each other; fewer bits than these mean nothing without their scales."""


def save(model: Decoder, folder: str | Path, *, keep_objective: bool = True) -> None:
    """Write the model to `folder` in one step; a model that `save` wrote there is replaced once all is written.

    BadInput where the folder holds anything else, or a file of it was changed or added since.

    Without `keep_objective`, what only training needs is left out (the modules of multi-token prediction): the folder
    then holds a model of the same logits that trains on by next-token prediction.
    """
    kept = model if keep_objective else without_objective(model)
    with folder_replaced(Path(folder), KIND) as fresh:
        write_model(kept.recipe, weights(kept), fresh)


def without_objective(model: Decoder) -> Decoder:
    """A model of the same logits without what only training needs, such as modules of multi-token prediction."""
    with torch.random.fork_rng():
        bare = Decoder(model.recipe.model_copy(update={"objective": NextTokenConfig()}))
    bare.to(model.device, model.dtype).train(model.training)
    own = {name: tensor for name, tensor in weights(model).items() if not name.startswith("objective.")}
    load_weights(bare, own, "the model")
    return bare


def write_model(recipe: Recipe, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write recipe, weights and plug-in source into an existing folder."""
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    if recipe.plugin is not None:
        (folder / COPY).write_bytes(plugin_code(recipe.plugin))
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def weights(model: Decoder) -> dict[str, Tensor]:
    """The tensors that make the model, each once: a tied head is not written next to its embedding."""
    kept = model.state_dict()  # leaves out buffers that are not to be kept
    return {name: p for name, p in [*model.named_parameters(), *model.named_buffers()] if name in kept}


def load(folder: str | Path, *, trust_plugin: bool = False) -> Decoder:
    """Read a model that `save` wrote; safetensors only.

    A plug-in's code runs if the user has named a file of that content before, or with `trust_plugin`.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file() or not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} holds no model: {RECIPE} and {WEIGHTS} are expected there")
    recipe = read_recipe(folder, trust_plugin=trust_plugin)
    origin = str(folder / WEIGHTS)
    tensors = _read_weights(folder / WEIGHTS)
    _check_sizes(recipe, tensors, origin)
    with plugin_faults(recipe, "building", seconds=LIMIT), torch.random.fork_rng():
        model = Decoder(recipe)
    load_weights(model, tensors, origin)
    if spoilt := [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]:
        more = f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else ""
        raise BadInput(f"{origin} holds NaN or infinite weights in {', '.join(spoilt[:5])}{more}; restore the file")
    return model


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that this version gives them; some have another one in files of version 0.1.0."""
    return {name.replace("objective.modules_ahead.", "objective.mtp_layers."): x for name, x in tensors.items()}


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return current_names(load_file(file))
    except (SafetensorError, KeyError, AttributeError) as error:  # the last two: a type that torch has not
        raise BadInput(f"{file} is not a whole safetensors file: {error}") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from None


def _check_sizes(recipe: Recipe, tensors: dict[str, Tensor], origin: str) -> None:
    """BadInput where the weights are not those of the recipe, before a model of whatever size it says is made."""
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"layers\.\d+\.", name, re.ASCII)}
    if recipe.depth > len(layers) + 1000:  # layers without weights, of a plug-in, are possible
        raise BadInput(
            f"{origin} does not fit recipe {recipe.name!r}: it has weights of {len(layers)} layers, not {recipe.depth}"
        )
    try:
        with torch.device("meta"), timeout(LIMIT):
            outline = Decoder(recipe)
    except (Exception, SystemExit, TimeLimitExceeded):  # some plug-ins cannot be built without numbers
        return
    _check_fit(outline, tensors, origin)


def read_recipe(folder: Path, *, trust_plugin: bool = False) -> Recipe:
    """The resolved recipe saved in `folder`, its plug-in's kinds declared."""
    file = folder / RECIPE
    return recipe_from(mapping(read_yaml(file), str(file), "recipe keys"), folder, trust_plugin=trust_plugin)


def recipe_from(raw: dict[str, Any], folder: Path, *, trust_plugin: bool = False) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote down in `folder`, its plug-in's kinds declared first."""
    if raw.get("plugin"):
        declare_plugin(plugin_source(raw["plugin"], folder), folder, trusted=trust_plugin)
    return validated(raw)


def load_weights(model: Decoder, tensors: dict[str, Tensor], origin: str) -> None:
    """Copy tensors into the model; BadInput counts what is missing, extra or misshapen and names the first five."""
    _check_fit(model, tensors, origin)
    for name, tensor in weights(model).items():
        tensor.data.copy_(tensors[name])


def _check_fit(model: Decoder, tensors: dict[str, Tensor], origin: str) -> None:
    own = weights(model)
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is extra" for name in tensors if name not in own]
    for name in (name for name in own if name in tensors):
        found, wanted = tensors[name], own[name]
        if found.shape != wanted.shape:
            faults.append(f"{name} is {tuple(found.shape)}, not {tuple(wanted.shape)}")
        elif found.dtype != wanted.dtype and not (found.dtype in FLOATS and wanted.dtype in FLOATS):
            faults.append(f"{name} is of type {_type(found)}, not {_type(wanted)}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BadInput(f"{origin} does not fit recipe {model.recipe.name!r}: {'; '.join(faults[:5])}{more}")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
