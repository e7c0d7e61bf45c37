"""A Hugging Face model folder as a run: recipe, tokenizer, and a checkpoint at step 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from torch import Tensor

from litmus.data import DataSettings, TokenData, Tokenizer
from litmus.data.imported_tokenizers import read_imported
from litmus.data.tokenizer import FILE_NAME
from litmus.data.tokenizers import ByteTokenizer
from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.interop.folder import read_config, read_tensors
from litmus.interop.formats import blank, format_named
from litmus.interop.layout import to_ours
from litmus.model import Recipe
from litmus.model.recipe import validated
from litmus.model.storage import RECIPE, weights
from litmus.training.budget import Spent
from litmus.training.checkpoints import State, save_checkpoint
from litmus.training.run import CHECKPOINTS, RUN, TOKENIZER, UNKNOWN, Description, describe
from litmus.training.settings import TrainSettings

WINDOW = 1024
"""Tokens in a sequence, where nobody says otherwise: published contexts are far too long to train on by default."""

Announce = Callable[[str], None]


def import_run(
    folder: str | Path, run: str | Path, *, use_bytes: bool = False, announce: Announce = lambda text: None
) -> Description:
    """Make the run folder `run` from a model folder, with the model's weights at step 0 and its tokenizer.

    It can be generated from, scored on any corpus, and trained on by `litmus train`. `use_bytes` takes one token per
    byte in place of the model's tokenizer. BadInput for an unsupported architecture, weights that are not safetensors,
    and tensors that do not fit.
    """
    folder, run = Path(folder), Path(run)
    if run.exists():
        raise BadInput(f"{run} is there already; choose another name with --name, or delete it")
    recipe, tensors = read_model(folder, name=run.name)
    tokenizer = _tokenizer(folder, use_bytes, announce)
    if tokenizer.vocab_size > recipe.vocab_size:
        announce(f"the tokenizer has {tokenizer.vocab_size} tokens and the model {recipe.vocab_size}: it takes no text")
    nothing = np.empty(0, dtype=np.uint32)
    data = TokenData(nothing, nothing, tokenizer, "", {"imported_from": str(folder)})
    settings = TrainSettings(context=min(recipe.context, WINDOW))
    description = describe(recipe, data, DataSettings(corpus=UNKNOWN, tokenizer=tokenizer.name), settings)
    with folder_written_atomically(run) as fresh:
        (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        tokenizer.save(fresh / TOKENIZER)
        text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
        (fresh / RUN).write_text(text, encoding="utf-8")
        save_checkpoint(fresh / CHECKPOINTS, recipe, tensors, {}, State(spent=Spent(), peak_memory_bytes=0))
    return description


def read_model(folder: Path, *, name: str) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a model folder and its tensors under Litmus's names, in fp32."""
    config = read_config(folder)
    chosen = format_named(config)
    theirs = {chosen.renamed(key): tensor for key, tensor in read_tensors(folder).items()}
    found = chosen.adapted(config, {key: tensor for key, tensor in theirs.items() if key is not None})
    described = {"name": name, "about": f"Imported from a {chosen.architecture}.", **chosen.recipe(config, found)}
    recipe = validated(described)
    model = blank(recipe)
    return recipe, to_ours(chosen.rules(model), found, weights(model), str(folder))


def _tokenizer(folder: Path, use_bytes: bool, announce: Announce) -> Tokenizer:
    if use_bytes:
        return ByteTokenizer()
    if not (folder / FILE_NAME).is_file():
        announce(f"{folder} has no {FILE_NAME}: the run takes one token per byte, which the model may not know")
        return ByteTokenizer()
    try:
        return read_imported(folder / FILE_NAME)
    except BadInput as error:
        raise BadInput(f"{error}; --bytes takes one token per byte instead") from None
