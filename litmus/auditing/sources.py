"""Models that are named and are no recipes: hf:FOLDER, a model of transformers, and file.py:build, anybody's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from litmus.catalog import HF, builder
from litmus.errors import BadInput, missing_extra, shown
from litmus.interop.hf.folder import CONFIG, UNSAFE_SUFFIXES, read_config
from litmus.model.plugins import import_definitions
from litmus.nn.core.registry import plugin_kinds


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

    The user named the file, so it runs; it finds the files beside it, as a program does.
    """
    sys.path.insert(0, str(path.resolve().parent))
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
    """The causal language model of a Hugging Face folder, in its own precision; new weights if it has none."""
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
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
        return model, "audited with new weights: the folder has none"
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} cannot be opened as a causal language model: {shown(str(error), limit=300)}"
        ) from None
