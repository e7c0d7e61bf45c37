"""Models that are named and are no recipes: hf:FOLDER, a model of transformers, and file.py:build, anybody's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from litmus.auditing.adapters.module import MAX_CAST_WEIGHTS
from litmus.catalog import HF, builder
from litmus.errors import BadInput, missing_extra, shown
from litmus.files import real_path
from litmus.interop.hf.folder import CONFIG, UNSAFE_SUFFIXES, read_config
from litmus.interop.hf.small_config import changes, small_config
from litmus.model.plugins import import_definitions
from litmus.nn.core.registry import plugin_kinds
from litmus.runtime.meta import meta_device


def is_named_model(source: object) -> bool:
    """Whether this names a model as hf:FOLDER or file.py:build."""
    return isinstance(source, str) and (source.startswith(HF) or builder(source) is not None)


def open_named_model(source: str, *, trusted: bool) -> tuple[nn.Module, str]:
    """The model that is named as hf:FOLDER or file.py:build, and a note; its code runs in this process."""
    if source.startswith(HF):
        return open_transformers(Path(source.removeprefix(HF)), trusted=trusted)
    return build_from_file(*builder(source) or (Path(), "")), ""


def build_from_file(path: Path, name: str) -> nn.Module:
    """The module that the function or class `name` of a Python file returns when called without arguments.

    The user named the file, so it runs; it finds the files next to it, as a program does.
    """
    sys.path.insert(0, str(real_path(path).parent))
    module = import_definitions(path)
    found = getattr(module, name, None)
    if found is None:
        defined = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise BadInput(f"{path} defines no {shown(name, quoted=False)}; it defines {', '.join(defined) or 'nothing'}")
    with plugin_kinds(module.__name__):
        model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise BadInput(f"{name}() of {path} gives a {type(model).__name__}; an nn.Module is expected")
    return model


def open_transformers(folder: Path, *, trusted: bool) -> tuple[nn.Module, str]:
    """The causal language model of a Hugging Face folder, in its own precision; a new one if it has no weights."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import, which reads it
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers", "hf", f"auditing {HF}{folder}") from None
    if read_config(folder).get("auto_map") and not trusted:
        raise BadInput(
            f"{folder / CONFIG} names code of its own (auto_map); read it, then add --trust-plugin (trust_plugin=True) "
            "to run it"
        )
    transformers.utils.logging.set_verbosity_error()
    options: dict[str, Any] = {"trust_remote_code": trusted, "local_files_only": True}
    try:
        if any(folder.glob("*.safetensors")):
            auto = transformers.AutoModelForCausalLM
            return auto.from_pretrained(folder, dtype="auto", use_safetensors=True, **options), ""
        if unsafe := [file.name for file in folder.iterdir() if file.suffix in UNSAFE_SUFFIXES]:
            raise BadInput(
                f"{folder} has its weights in {unsafe[0]}, which can run code when it is read; save it as safetensors"
            )
        return new_model(transformers.AutoConfig.from_pretrained(folder, **options), trusted=trusted)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} cannot be opened as a causal language model: {shown(str(error), limit=300)}"
        ) from None


def new_model(config: Any, *, trusted: bool) -> tuple[nn.Module, str]:
    """A model of a transformers config with new weights, and a note; of small numbers if it would be too large.

    New weights of the given size show nothing that those of a small model of the same class do not.
    """
    note = "audited with new weights: the folder has none"
    weights = weights_of(config, trusted=trusted)
    if weights > MAX_CAST_WEIGHTS:
        given = config.to_dict()
        small = small_config(given)
        config = type(config).from_dict(small)
        note += f"; {weights:,} of them would be too many, so the config was made small: {changes(given, small)}"
    try:
        return built(config, trusted=trusted), note
    except Exception as error:
        if weights <= MAX_CAST_WEIGHTS:
            raise
        raise ValueError(f"it has no weights, and no model could be built of its config made small: {error}") from error


def weights_of(config: Any, *, trusted: bool) -> int:
    """The number of weights of a model of this config; 0 if only building it tells."""
    try:
        with meta_device():
            return sum(parameter.numel() for parameter in built(config, trusted=trusted).parameters())
    except Exception:  # code of its own may need real tensors
        return 0


def built(config: Any, *, trusted: bool) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    return model
