"""A Hugging Face model folder as a run: recipe, tokenizer, and a checkpoint at step 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from litmus.data import DataSettings, TokenData, Tokenizer
from litmus.data.json_files import read_json
from litmus.data.tokens.hf_tokenizer import read_hf_tokenizer
from litmus.data.tokens.hf_tokenizer_files import GENERATION_CONFIG
from litmus.data.tokens.tokenizer import FILE_NAME, ByteTokenizer
from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.generation.generation_config import generation_defaults, unsupported_keys
from litmus.interop.hf.folder import dtypes_of, read_config, read_tensors
from litmus.interop.hf.registry import adapter_of, meta_decoder
from litmus.interop.hf.state_dict_mapping import from_hf
from litmus.model import Recipe
from litmus.model.recipe import validated
from litmus.model.storage import RECIPE, weights
from litmus.training.budget import Usage
from litmus.training.run.checkpoints import State, save_checkpoint
from litmus.training.run.config import CHECKPOINTS, RUN, TOKENIZER, UNKNOWN_CORPUS, Imported, RunConfig, make_config
from litmus.training.settings import TrainSettings
from litmus.yaml_json import parse_yaml

BYTES = ByteTokenizer()
MAX_BYTE_VOCABULARY = 512
"""Largest vocabulary of a model of bytes, which may have unused rows; larger ones have other tokens."""
DEFAULT_TRAINING_CONTEXT = 1024
"""Tokens per training sequence by default: published contexts are far too long for it."""

Log = Callable[[str], None]


def import_run(
    folder: str | Path, run: str | Path, *, use_bytes: bool = False, log: Log = lambda text: None
) -> RunConfig:
    """Make the run folder `run` from a model folder, with the model's weights at step 0 and its tokenizer.

    It can be generated from, evaluated on any corpus, and trained further by `litmus train`. `use_bytes` takes one
    token per byte for a model whose tokens are bytes and whose tokenizer cannot be read. BadInput for an unsupported
    architecture, weights that are not safetensors, tensors that do not fit and invalid files.
    """
    folder, run = Path(folder), Path(run)
    if run.exists():
        raise BadInput(f"{run} is there already; choose another name with --name, or delete it")
    recipe, tensors, imported = read_folder(folder, name=run.name)
    tokenizer = _tokenizer(folder, recipe.vocab_size, use_bytes, log)
    if tokenizer.vocab_size > recipe.vocab_size:
        sizes = f"the tokenizer has {tokenizer.vocab_size} tokens and the model {recipe.vocab_size}"
        log(f"{sizes}: text cannot be encoded for it")
    if outside := [number for number in tokenizer.stop_ids if number >= max(recipe.vocab_size, tokenizer.vocab_size)]:
        raise BadInput(f"{folder}: eos_token_id = {outside[0]} is outside the model's {recipe.vocab_size} tokens")
    if ignored := unsupported_keys(imported.generation_config or {}):
        log(f"{GENERATION_CONFIG}: {', '.join(ignored)} are kept for an export, and have no effect here")
    nothing = np.empty(0, dtype=np.uint32)
    data = TokenData(nothing, nothing, tokenizer, "", {"imported_from": str(folder)})
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


def read_model(folder: Path, *, name: str) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a model folder and its tensors by Litmus's names, in fp32."""
    recipe, tensors, _ = read_folder(folder, name=name)
    return recipe, tensors


def read_folder(folder: Path, *, name: str) -> tuple[Recipe, dict[str, Tensor], Imported]:
    """`read_model`, and the other facts of the folder."""
    config = read_config(folder)
    adapter = adapter_of(config)
    theirs = {adapter.map_key(key): tensor for key, tensor in read_tensors(folder).items()}
    found = {key: tensor for key, tensor in theirs.items() if key is not None}
    described = {"name": name, "about": f"Imported from a {adapter.architecture}.", **adapter.to_recipe(config, found)}
    recipe = validated(described)
    model = meta_decoder(recipe)
    tensors = from_hf(
        adapter.state_dict_mapping(model), found, weights(model), str(folder), adapter.tensor_scales(config)
    )
    dtype, dtypes = dtypes_of(found)
    generation = read_json(folder / GENERATION_CONFIG) if (folder / GENERATION_CONFIG).is_file() else None
    if generation is not None:
        generation_defaults(generation, str(folder / GENERATION_CONFIG))
    imported = Imported(
        architecture=adapter.architecture,
        dtype=dtype,
        dtypes=dtypes,
        config=config,
        written=adapter.hf_config(model),
        generation_config=generation,
    )
    return recipe, tensors, imported


def _tokenizer(folder: Path, vocab_size: int, use_bytes: bool, log: Log) -> Tokenizer:
    path = folder / FILE_NAME
    count = _vocabulary(path) if path.is_file() else 0
    plausible = count in (0, BYTES.vocab_size) and BYTES.vocab_size <= vocab_size <= MAX_BYTE_VOCABULARY
    if path.is_file() and not use_bytes:
        try:
            return read_hf_tokenizer(path)
        except BadInput as error:
            way_out = "; --bytes takes one token per byte instead" if plausible else ""
            raise BadInput(f"{error}{way_out}") from None
    if not plausible:
        own = f"{count} tokens in {FILE_NAME}" if count else f"a model of {vocab_size} tokens"
        advice = "leave out --bytes" if path.is_file() else f"put the tokenizer's {FILE_NAME} next to the weights"
        raise BadInput(f"{folder} has a vocabulary of its own, {own}, which are not bytes; {advice}")
    if not path.is_file():
        log(f"{folder} has no {FILE_NAME}: the run takes one token per byte, which the model may not know")
    return ByteTokenizer()


def _vocabulary(path: Path) -> int:
    """Number of tokens in a tokenizer.json of any kind; 0 if it lists none."""
    try:
        model = read_json(path).get("model")
    except BadInput:
        return 0
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return len(vocabulary) if isinstance(vocabulary, dict | list) else 0
