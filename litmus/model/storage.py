"""Models on disk: a folder with recipe.yaml, model.safetensors and, for plug-ins, plugin.py."""

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
from litmus.model.packed import dequantized
from litmus.model.plugins import MAX_PLUGIN_SECONDS, PLUGIN_FILE, declare_plugin, plugin_code, plugin_faults
from litmus.model.recipe import Recipe, plugin_source, validated
from litmus.nn.objectives.objective import NextTokenConfig
from litmus.runtime.meta import meta_device
from litmus.yaml_json import mapping, read_yaml

RECIPE, WEIGHTS = "recipe.yaml", "model.safetensors"
KIND = "saved model"

COPYABLE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes between which weights can be copied; formats with fewer bits need scales."""


def save(model: Decoder, folder: str | Path, *, keep_objective: bool = True) -> None:
    """Write the model to `folder` atomically, replacing a model that `save` wrote there.

    BadInput if the folder contains anything else, or a file in it was changed or added since.

    Without `keep_objective`, modules that only training uses (multi-token prediction) are omitted: the saved model has
    the same logits and the next-token objective.
    """
    kept = model if keep_objective else without_objective(model)
    with folder_replaced(Path(folder), KIND) as fresh:
        write_model(kept.recipe, weights(kept), fresh)


def without_objective(model: Decoder) -> Decoder:
    """A copy of the model with the next-token objective, without modules that only training uses."""
    with torch.random.fork_rng():
        bare = Decoder(model.recipe.model_copy(update={"objective": NextTokenConfig()}))
    bare.to(model.device, model.dtype).train(model.training)
    tensors = {name: tensor for name, tensor in weights(model).items() if not name.startswith("objective.")}
    load_weights(bare, tensors, "the model")
    return bare


def write_model(recipe: Recipe, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write recipe, weights and plug-in source into an existing folder."""
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    if recipe.plugin is not None:
        (folder / PLUGIN_FILE).write_bytes(plugin_code(recipe.plugin))
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def weights(model: Decoder) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; shared tensors (a tied head) occur once."""
    state = model.state_dict()  # without non-persistent buffers
    return {name: p for name, p in [*model.named_parameters(), *model.named_buffers()] if name in state}


def load(folder: str | Path, *, trust_plugin: bool = False) -> Decoder:
    """Load a model that `save` wrote; weights that are stored in fewer bits are dequantized.

    A plug-in's code runs if the user has named a file with this content before, or with `trust_plugin`.
    """
    folder = Path(folder)
    if not (folder / RECIPE).is_file() or not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} holds no model: {RECIPE} and {WEIGHTS} are expected there")
    recipe = read_recipe(folder, trust_plugin=trust_plugin)
    origin = str(folder / WEIGHTS)
    tensors = _read_weights(folder / WEIGHTS)
    _check_sizes(recipe, tensors, origin)
    with plugin_faults(recipe, "building", seconds=MAX_PLUGIN_SECONDS), torch.random.fork_rng():
        model = Decoder(recipe)
    load_weights(model, tensors, origin)
    if spoilt := [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]:
        more = f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else ""
        raise BadInput(f"{origin} holds NaN or infinite weights in {', '.join(spoilt[:5])}{more}; restore the file")
    return model


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with names of version 0.1.0 replaced by current ones."""
    return {name.replace("objective.modules_ahead.", "objective.mtp_layers."): x for name, x in tensors.items()}


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        return dequantized(current_names(load_file(file)), str(file))
    except (SafetensorError, KeyError, AttributeError) as error:  # the last two: a dtype that torch does not have
        raise BadInput(f"{file} is not a whole safetensors file: {error}") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror or error}") from None


def _check_sizes(recipe: Recipe, tensors: dict[str, Tensor], origin: str) -> None:
    """BadInput if the weights do not fit the recipe; called before a model of the recipe's size is allocated."""
    layers = {int(name.split(".")[1]) for name in tensors if re.match(r"layers\.\d+\.", name, re.ASCII)}
    if recipe.depth > len(layers) + 1000:  # a plug-in may have layers without weights
        raise BadInput(
            f"{origin} does not fit recipe {recipe.name!r}: it has weights of {len(layers)} layers, not {recipe.depth}"
        )
    try:
        with meta_device(), timeout(MAX_PLUGIN_SECONDS):
            meta = Decoder(recipe)
    except (Exception, SystemExit, TimeLimitExceeded):  # some plug-ins cannot be built on the meta device
        return
    _check_fit(meta, tensors, origin)


def read_recipe(folder: Path, *, trust_plugin: bool = False) -> Recipe:
    """The recipe saved in `folder`; kinds of its plug-in are registered."""
    file = folder / RECIPE
    return recipe_from(mapping(read_yaml(file), str(file), "recipe keys"), folder, trust_plugin=trust_plugin)


def recipe_from(raw: dict[str, Any], folder: Path, *, trust_plugin: bool = False) -> Recipe:
    """The recipe of a mapping by `Recipe.to_dict` from `folder`; kinds of its plug-in are registered."""
    if raw.get("plugin"):
        declare_plugin(plugin_source(raw["plugin"], folder), folder, trusted=trust_plugin)
    return validated(raw)


def load_weights(model: Decoder, tensors: dict[str, Tensor], origin: str) -> None:
    """Copy tensors into the model; BadInput lists missing, extra and misshapen ones (the first five)."""
    _check_fit(model, tensors, origin)
    for name, tensor in weights(model).items():
        tensor.data.copy_(tensors[name])


def _check_fit(model: Decoder, tensors: dict[str, Tensor], origin: str) -> None:
    expected = weights(model)
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is extra" for name in tensors if name not in expected]
    for name in (name for name in expected if name in tensors):
        found, wanted = tensors[name], expected[name]
        if found.shape != wanted.shape:
            faults.append(f"{name} is {tuple(found.shape)}, not {tuple(wanted.shape)}")
        elif found.dtype != wanted.dtype and not (found.dtype in COPYABLE_DTYPES and wanted.dtype in COPYABLE_DTYPES):
            faults.append(f"{name} is of type {_type(found)}, not {_type(wanted)}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BadInput(f"{origin} does not fit recipe {model.recipe.name!r}: {'; '.join(faults[:5])}{more}")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
