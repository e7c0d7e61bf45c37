"""Models on disk: a folder with recipe.yaml and model.safetensors (and the plug-in's source, if there is one)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from litmus.errors import BadInput
from litmus.locks import folder_replaced
from litmus.model.decoder import Decoder
from litmus.model.plugins import CODE, import_declarations
from litmus.model.recipe import PluginSource, Recipe, validated
from litmus.nn.objectives import NextTokenConfig

RECIPE, WEIGHTS, PLUGIN = "recipe.yaml", "model.safetensors", "plugin.py"
KIND = "saved model"


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
    like = model.embedding.weight
    bare.to(like.device, like.dtype).train(model.training)
    own = {name: tensor for name, tensor in weights(model).items() if not name.startswith("objective.")}
    load_weights(bare, own, "the model")
    return bare


def write_model(recipe: Recipe, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write recipe, weights and plug-in source into an existing folder."""
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    if recipe.plugin is not None:
        (folder / PLUGIN).write_bytes(CODE[recipe.plugin.sha256])
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def weights(model: Decoder) -> dict[str, Tensor]:
    """The tensors that make the model, each once: a tied head is not written beside its embedding."""
    kept = model.state_dict()  # leaves out buffers that are not to be kept
    return {name: p for name, p in [*model.named_parameters(), *model.named_buffers()] if name in kept}


def load(folder: str | Path, *, trust_plugin: bool = False) -> Decoder:
    """Read a model that `save` wrote; safetensors only. `trust_plugin` runs the folder's plug-in copy if needed."""
    folder = Path(folder)
    if not (folder / RECIPE).is_file() or not (folder / WEIGHTS).is_file():
        raise BadInput(f"{folder} holds no model: {RECIPE} and {WEIGHTS} are expected there")
    recipe = read_recipe(folder, trust_plugin=trust_plugin)
    with torch.random.fork_rng():
        model = Decoder(recipe)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise BadInput(f"{folder / WEIGHTS} is not a whole safetensors file: {error}") from None
    load_weights(model, tensors, str(folder / WEIGHTS))
    return model


def read_recipe(folder: Path, *, trust_plugin: bool = False) -> Recipe:
    """The resolved recipe saved in `folder`, its plug-in's kinds declared."""
    try:
        raw = yaml.safe_load((folder / RECIPE).read_bytes())
    except yaml.YAMLError:
        raw = None
    if not isinstance(raw, dict):
        raise BadInput(f"{folder / RECIPE} is damaged: it holds no recipe, which is a YAML mapping")
    return recipe_from(raw, folder, trust_plugin=trust_plugin)


def recipe_from(raw: dict[str, Any], folder: Path, *, trust_plugin: bool = False) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote down in `folder`, its plug-in's kinds declared first."""
    if raw.get("plugin"):
        source = PluginSource.model_validate(raw["plugin"])
        raw = {**raw, "plugin": import_declarations(source, folder, trust=trust_plugin).model_dump()}
    return validated(raw)


def load_weights(model: Decoder, tensors: dict[str, Tensor], origin: str) -> None:
    """Copy tensors into the model; BadInput counts what is missing, extra or misshapen and names the first five."""
    own = weights(model)
    faults = [f"{name} is missing" for name in own if name not in tensors]
    faults += [f"{name} is extra" for name in tensors if name not in own]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BadInput(f"{origin} does not fit recipe {model.recipe.name!r}: {'; '.join(faults[:5])}{more}")
    for name, tensor in own.items():
        tensor.data.copy_(tensors[name])
