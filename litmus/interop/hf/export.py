"""Export a run as a folder that transformers loads: config.json, safetensors, tokenizer. Does not need transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from litmus.data import Tokenizer
from litmus.data.tokens.hf_tokenizer_files import GENERATION_CONFIG
from litmus.errors import BadInput
from litmus.interop.hf import remote_code as remote
from litmus.interop.hf.folder import write_json, write_weights
from litmus.interop.hf.registry import ADAPTERS, closest_adapter
from litmus.interop.hf.state_dict_mapping import DTYPES, to_hf
from litmus.interop.hf.tokenizer_files import write_tokenizer
from litmus.locks import folder_replaced
from litmus.model import Decoder
from litmus.model.storage import weights, without_objective
from litmus.training.run.config import Imported
from litmus.training.run.loading import imported_facts, load_with_tokenizer

Log = Callable[[str], None]
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
    log: Log = lambda text: None,
) -> str:
    """Write a run's newest (or best) checkpoint, or a saved model, to `folder`; returns the architecture's name.

    `remote_code` writes a modelling file next to the weights, for models that transformers has no class for; `drop_mtp`
    leaves out MTP modules. BadInput if the recipe has no equivalent, with the changes that it would need.
    """
    model, words = load_with_tokenizer(run, tokenizer=tokenizer, best=best, trust_plugin=trust_plugin, log=log)
    if words is None:
        log(f"{run} is a saved model, which keeps no tokenizer: none is written; --tokenizer names one")
    model = without_objective(model) if drop_mtp else model
    imported = imported_facts(run)
    return export_model(model, words, folder, imported=imported, remote_code=remote_code, log=log)


def export_model(
    model: Decoder,
    tokenizer: Tokenizer | None,
    folder: str | Path,
    *,
    imported: Imported | None = None,
    remote_code: bool = False,
    log: Log = lambda text: None,
) -> str:
    """`export_run` for a model and its tokenizer (None: without tokenizer files).

    `imported` describes the folder that the model was imported from: config.json is then written as it was, except for
    keys that have changed since, and so are generation_config.json and the dtypes of the weights.
    """
    folder, recipe = Path(folder), model.recipe
    adapter = ADAPTERS[remote.ARCHITECTURE] if remote_code else closest_adapter(recipe)
    known = imported is not None and imported.architecture != remote.ARCHITECTURE
    if imported and known and not remote_code and not ADAPTERS[imported.architecture].incompatibilities(recipe):
        adapter = ADAPTERS[imported.architecture]
    if reasons := adapter.incompatibilities(recipe):
        way_out = "" if remote_code else "; or pass --remote-code for a folder that brings its own modelling file"
        raise BadInput(
            f"recipe {recipe.name!r} has no equivalent in {adapter.architecture}: {'; '.join(reasons)}{way_out}"
        )
    mapping, own = adapter.state_dict_mapping(model), weights(model)
    if left := [name for name in own if name not in {tensor.ours for tensor in mapping}]:
        log(f"{adapter.architecture} has no place for {len(left)} tensors of training only, left out: {left[0]}, ...")
    written = adapter.hf_config(model)
    with folder_replaced(folder, KIND) as fresh:
        ids = {} if tokenizer is None else write_tokenizer(tokenizer, fresh, recipe.context)
        config = {**written, **ids, "torch_dtype": "float32"} if imported is None else _as_imported(written, imported)
        if remote_code:
            (fresh / f"{remote.MODULE}.py").write_text(remote.modelling_file(), encoding="utf-8")
        if imported and imported.generation_config is not None:
            write_json(fresh / GENERATION_CONFIG, imported.generation_config)
        tensors = to_hf(mapping, own, adapter.tensor_scales(config))
        if imported:
            dtypes = {name: DTYPES[imported.dtypes.get(name, imported.dtype)] for name in tensors}
            tensors = {name: tensor.to(dtypes[name]) for name, tensor in tensors.items()}
        write_weights(fresh, config, tensors)
    return adapter.architecture


def _as_imported(written: dict[str, Any], imported: Imported) -> dict[str, Any]:
    """config.json as it was imported, with the changes since; for another architecture, its tokens only."""
    if written["architectures"] != imported.written["architectures"]:
        tokens = {key: value for key, value in imported.config.items() if key.endswith("_token_id")}
        return {**written, **tokens, "torch_dtype": imported.dtype}
    changed = {key: value for key, value in written.items() if imported.written.get(key) != value}
    gone = imported.written.keys() - written.keys()
    if "rope_theta" in changed or "rope_scaling" in {*changed, *gone}:
        gone |= {"rope_parameters"}
    return {**{key: value for key, value in imported.config.items() if key not in gone}, **changed}
