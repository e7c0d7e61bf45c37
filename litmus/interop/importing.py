"""A published model as a run: recipe, tokenizer, and a checkpoint at step 0."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from litmus.data import DataSettings, TokenData, Tokenizer
from litmus.data.messages import Log, no_log
from litmus.data.tokens.hf_tokenizer_files import GENERATION_CONFIG
from litmus.errors import BadInput, nearest, shown
from litmus.files import folder_written_atomically
from litmus.generation.generation_config import unsupported_keys
from litmus.interop.gguf.file import check_package
from litmus.interop.gguf.llama import read_gguf_model
from litmus.interop.hf.published import read_folder, read_folder_tokenizer
from litmus.interop.named import MODELS, fetch_model
from litmus.model.storage import RECIPE
from litmus.training.budget import Usage
from litmus.training.run.checkpoints import State, save_checkpoint
from litmus.training.run.config import CHECKPOINTS, RUN, TOKENIZER, UNKNOWN_CORPUS, RunConfig, make_config
from litmus.training.settings import TrainSettings
from litmus.yaml_json import parse_yaml

DEFAULT_TRAINING_CONTEXT = 1024
"""Tokens per training sequence by default: published contexts are far too long for it."""


def import_run(source: str | Path, run: str | Path, *, use_bytes: bool = False, log: Log = no_log) -> RunConfig:
    """Make the run folder `run` from a published model, with its weights at step 0 and its tokenizer.

    source: a Hugging Face folder, a GGUF file, or a name in `MODELS`. The run can be generated from, evaluated on any
    corpus, and trained further by `litmus train`. `use_bytes` takes one token per byte for a folder whose tokens are
    bytes and whose tokenizer cannot be read. BadInput for an unsupported architecture, weights that are neither
    safetensors nor GGUF, tensors that do not fit and invalid files.
    """
    run = Path(run)
    if run.exists():
        raise BadInput(f"{run} is there already; choose another name with --name, or delete it")
    path, defaults = _locate(source, log)
    tokenizer: Tokenizer | None = None
    if os.path.isdir(path):
        published = read_folder(path)
    elif use_bytes:
        raise BadInput(f"{path} is a GGUF file, which holds its tokenizer; leave out --bytes")
    else:
        published, tokenizer = read_gguf_model(path)
    recipe, tensors, imported = published.to_litmus(run.name)
    imported = imported.model_copy(update={"generation_config": imported.generation_config or defaults})
    if tokenizer is None:
        tokenizer = read_folder_tokenizer(path, recipe.vocab_size, use_bytes, log)
    if tokenizer.vocab_size > recipe.vocab_size:
        sizes = f"the tokenizer has {tokenizer.vocab_size} tokens and the model {recipe.vocab_size}"
        log(f"{sizes}: text cannot be encoded for it")
    if outside := [number for number in tokenizer.stop_ids if number >= max(recipe.vocab_size, tokenizer.vocab_size)]:
        raise BadInput(f"{path}: eos_token_id = {outside[0]} is outside the model's {recipe.vocab_size} tokens")
    if ignored := unsupported_keys(imported.generation_config or {}):
        log(f"{GENERATION_CONFIG}: {', '.join(ignored)} are kept for an export, and have no effect here")
    nothing = np.empty(0, dtype=np.uint32)
    data = TokenData(nothing, nothing, tokenizer, "", {"imported_from": str(source)})
    settings = TrainSettings(context=min(recipe.context, DEFAULT_TRAINING_CONTEXT))
    named = DataSettings(corpus=UNKNOWN_CORPUS, tokenizer=tokenizer.name)
    config = make_config(recipe, data, named, settings, imported=imported)
    text = config.to_yaml()
    parse_yaml(text, f"{RUN} of this model")  # refuse now what could not be read back
    with folder_written_atomically(run) as fresh:
        (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        tokenizer.save(fresh / TOKENIZER)
        (fresh / RUN).write_text(text, encoding="utf-8")
        save_checkpoint(fresh / CHECKPOINTS, recipe, tensors, {}, State(usage=Usage(), peak_memory_bytes=0))
    return config


def _locate(source: str | Path, log: Log) -> tuple[Path, dict[str, Any] | None]:
    """The folder or GGUF file of a source, fetched if it is a name, and generation defaults that belong to the name."""
    if isinstance(source, str) and source in MODELS:
        check_package()  # before anything is downloaded
        return fetch_model(source, log), dict(MODELS[source].generation_config)
    path = Path(source)
    if not os.path.isdir(path) and not os.path.isfile(path):
        raise BadInput(
            f"{shown(str(source), limit=300)} is neither a model folder, nor a GGUF file, nor a model that can be "
            f"fetched by name; {nearest(str(source), MODELS)}"
        )
    if os.path.isfile(path):
        check_package()
    return path, None
