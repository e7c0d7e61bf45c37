"""A run as a folder that transformers loads: config.json, safetensors, tokenizer. Needs no transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from litmus.data import Tokenizer
from litmus.data.tokenizer_json import GENERATION_CONFIG
from litmus.errors import BadInput
from litmus.interop import remote
from litmus.interop.folder import write_json, write_weights
from litmus.interop.formats import FORMATS, format_of
from litmus.interop.layout import DTYPES, to_theirs
from litmus.interop.tokenizer_files import write_tokenizer
from litmus.locks import folder_replaced
from litmus.model import Decoder
from litmus.model.storage import weights, without_objective
from litmus.training.run.config import Imported
from litmus.training.run.loading import imported_facts, load_with_tokenizer

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

    `remote_code` writes a modelling file next to the weights, for what transformers has no class for; `drop_mtp` leaves
    out modules of multi-token prediction. BadInput where the recipe has no equivalent, with what would have to change.
    """
    model, words = load_with_tokenizer(run, tokenizer=tokenizer, best=best, trust_plugin=trust_plugin, log=announce)
    if words is None:
        announce(f"{run} is a saved model, which keeps no tokenizer: none is written; --tokenizer names one")
    model = without_objective(model) if drop_mtp else model
    imported = imported_facts(run)
    return export_model(model, words, folder, imported=imported, remote_code=remote_code, announce=announce)


def export_model(
    model: Decoder,
    tokenizer: Tokenizer | None,
    folder: str | Path,
    *,
    imported: Imported | None = None,
    remote_code: bool = False,
    announce: Announce = lambda text: None,
) -> str:
    """`export_run` for a model and its tokenizer (None: without tokenizer files).

    `imported` are the facts that the model came with: what config.json says is then what it said, but for what has
    changed since, and so are generation_config.json and the number format of the weights.
    """
    folder, recipe = Path(folder), model.recipe
    chosen = FORMATS[remote.ARCHITECTURE] if remote_code else format_of(recipe)
    known = imported is not None and imported.architecture != remote.ARCHITECTURE
    if imported and known and not remote_code and not FORMATS[imported.architecture].obstacles(recipe):
        chosen = FORMATS[imported.architecture]
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
    written = chosen.config(model)
    with folder_replaced(folder, KIND) as fresh:
        ids = {} if tokenizer is None else write_tokenizer(tokenizer, fresh, recipe.context)
        config = {**written, **ids, "torch_dtype": "float32"} if imported is None else _as_imported(written, imported)
        if remote_code:
            (fresh / f"{remote.MODULE}.py").write_text(remote.modelling_file(), encoding="utf-8")
        if imported and imported.generation_config is not None:
            write_json(fresh / GENERATION_CONFIG, imported.generation_config)
        tensors = to_theirs(rules, own, chosen.factors(config))
        if imported:
            kinds = {name: DTYPES[imported.dtypes.get(name, imported.dtype)] for name in tensors}
            tensors = {name: tensor.to(kinds[name]) for name, tensor in tensors.items()}
        write_weights(fresh, config, tensors)
    return chosen.architecture


def _as_imported(written: dict[str, Any], imported: Imported) -> dict[str, Any]:
    """config.json as it was imported, but for what says something else by now; of another architecture, its tokens."""
    if written["architectures"] != imported.written["architectures"]:
        tokens = {key: value for key, value in imported.config.items() if key.endswith("_token_id")}
        return {**written, **tokens, "torch_dtype": imported.dtype}
    changed = {key: value for key, value in written.items() if imported.written.get(key) != value}
    gone = imported.written.keys() - written.keys()
    if "rope_theta" in changed or "rope_scaling" in {*changed, *gone}:
        gone |= {"rope_parameters"}
    return {**{key: value for key, value in imported.config.items() if key not in gone}, **changed}
