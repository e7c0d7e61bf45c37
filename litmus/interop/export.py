"""A run as a folder that transformers loads: config.json, safetensors, tokenizer. Needs no transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from litmus.data import Tokenizer
from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.interop.folder import CONFIG, write_weights
from litmus.interop.formats import format_of
from litmus.interop.layout import to_theirs
from litmus.interop.tokenizer_files import write_tokenizer
from litmus.model import Decoder
from litmus.model.storage import weights
from litmus.training import load_run

Announce = Callable[[str], None]


def export_run(
    run: Path,
    folder: Path,
    *,
    best: bool = False,
    trust_plugin: bool = False,
    announce: Announce = lambda text: None,
) -> str:
    """Write a run's newest (or best) checkpoint to `folder`; returns the name of the architecture.

    BadInput where the recipe has no equivalent, with what would have to change.
    """
    loaded = load_run(run, best=best, trust_plugin=trust_plugin, announce=announce)
    return export_model(loaded.model, loaded.tokenizer, folder, announce=announce)


def export_model(
    model: Decoder, tokenizer: Tokenizer | None, folder: Path, *, announce: Announce = lambda text: None
) -> str:
    """`export_run` for a model and its tokenizer (None: without tokenizer files)."""
    recipe = model.recipe
    chosen = format_of(recipe)
    if obstacles := chosen.obstacles(recipe):
        raise BadInput(
            f"recipe {recipe.name!r} has no equivalent in {chosen.architecture}: {'; '.join(obstacles)}; "
            f"or pass --remote-code for a folder that brings its own modelling file"
        )
    rules, own = chosen.rules(model), weights(model)
    if left := [name for name in own if name not in {rule.ours for rule in rules}]:
        announce(
            f"{chosen.architecture} has no place for {len(left)} tensors of training only, left out: {left[0]}, ..."
        )
    write_folder(folder, model, chosen.config(model), to_theirs(rules, own), tokenizer)
    return chosen.architecture


def write_folder(
    folder: Path, model: Decoder, config: dict[str, object], tensors: dict[str, Tensor], tokenizer: Tokenizer | None
) -> None:
    """Write a new model folder, or one in place of an exported model that stood there."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file()):
        raise BadInput(f"{folder} holds something other than an exported model; export to a new folder")
    with folder_written_atomically(folder) as fresh:
        if tokenizer is not None:
            config = {**config, **write_tokenizer(tokenizer, fresh, model.recipe.context)}
        write_weights(fresh, config, tensors)
