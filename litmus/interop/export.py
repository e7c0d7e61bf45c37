"""A run as a folder that transformers loads: config.json, safetensors, tokenizer. Needs no transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from litmus.data import Tokenizer
from litmus.errors import BadInput
from litmus.interop import remote
from litmus.interop.folder import write_weights
from litmus.interop.formats import FORMATS, format_of
from litmus.interop.layout import to_theirs
from litmus.interop.tokenizer_files import write_tokenizer
from litmus.locks import folder_replaced
from litmus.model import Decoder
from litmus.model.storage import weights, without_objective
from litmus.training.loading import load_with_tokenizer

Announce = Callable[[str], None]
KIND = "exported model"


def export_run(
    run: str | Path,
    folder: str | Path,
    *,
    remote_code: bool = False,
    drop_mtp: bool = False,
    best: bool = False,
    tokenizer: str | None = None,
    trust_plugin: bool = False,
    announce: Announce = lambda text: None,
) -> str:
    """Write a run's newest (or best) checkpoint, or a saved model, to `folder`; returns the architecture's name.

    `remote_code` writes a modelling file beside the weights, for what transformers has no class for; `drop_mtp` leaves
    out modules of multi-token prediction. BadInput where the recipe has no equivalent, with what would have to change.
    """
    model, words = load_with_tokenizer(
        run, tokenizer=tokenizer, best=best, trust_plugin=trust_plugin, announce=announce
    )
    if words is None:
        announce(f"{run} is a saved model, which keeps no tokenizer: none is written; --tokenizer names one")
    model = without_objective(model) if drop_mtp else model
    return export_model(model, words, folder, remote_code=remote_code, announce=announce)


def export_model(
    model: Decoder,
    tokenizer: Tokenizer | None,
    folder: str | Path,
    *,
    remote_code: bool = False,
    announce: Announce = lambda text: None,
) -> str:
    """`export_run` for a model and its tokenizer (None: without tokenizer files)."""
    folder, recipe = Path(folder), model.recipe
    chosen = FORMATS[remote.ARCHITECTURE] if remote_code else format_of(recipe)
    if obstacles := chosen.obstacles(recipe):
        way_out = "" if remote_code else "; or pass --remote-code for a folder that brings its own modelling file"
        raise BadInput(
            f"recipe {recipe.name!r} has no equivalent in {chosen.architecture}: {'; '.join(obstacles)}{way_out}"
        )
    rules, own = chosen.rules(model), weights(model)
    if left := [name for name in own if name not in {rule.ours for rule in rules}]:
        announce(
            f"{chosen.architecture} has no place for {len(left)} tensors of training only, left out: {left[0]}, ..."
        )
    config = chosen.config(model)
    with folder_replaced(folder, KIND) as fresh:
        if tokenizer is not None:
            config |= write_tokenizer(tokenizer, fresh, recipe.context)
        if remote_code:
            (fresh / f"{remote.MODULE}.py").write_text(remote.modelling_file(), encoding="utf-8")
        write_weights(fresh, config, to_theirs(rules, own))
    return chosen.architecture
