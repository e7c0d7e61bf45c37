"""A Hugging Face model folder as a run: recipe, tokenizer, and a checkpoint at step 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from torch import Tensor

from litmus.data import DataSettings, TokenData, Tokenizer
from litmus.data.tokenizers import ByteTokenizer
from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.interop.folder import read_config, read_tensors
from litmus.interop.formats import blank, format_named
from litmus.interop.layout import to_ours
from litmus.interop.tokenizer_files import read_tokenizer
from litmus.model import Recipe, resolve
from litmus.model.storage import RECIPE, weights
from litmus.training.budget import Spent
from litmus.training.checkpoints import State, save_checkpoint
from litmus.training.run import CHECKPOINTS, METRICS, RUN, TOKENIZER, describe
from litmus.training.settings import TrainSettings

CORPUS = "imported"
"""What run.yaml gives as the corpus of a model whose training data nobody here knows."""

Announce = Callable[[str], None]


def import_run(folder: Path, run: Path, *, announce: Announce = lambda text: None) -> Recipe:
    """Make the run folder `run` from a model folder; it can be evaluated, generated from and trained on.

    BadInput for an unsupported architecture, weights that are not safetensors, and tensors that do not fit.
    """
    if run.exists():
        raise BadInput(f"{run} is there already; choose another name with --name, or delete it")
    recipe, tensors = read_model(folder, name=run.name)
    tokenizer = read_tokenizer(folder) or _bytes_for(recipe, announce)
    if tokenizer.vocab_size > recipe.vocab_size:
        raise BadInput(f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {recipe.vocab_size}")
    nothing = np.empty(0, dtype=np.uint32)
    data = TokenData(nothing, nothing, tokenizer, "", {"imported_from": str(folder)})
    settings = DataSettings(corpus=CORPUS, tokenizer=tokenizer.name)
    description = describe(recipe, data, settings, TrainSettings())
    with folder_written_atomically(run) as fresh:
        (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        tokenizer.save(fresh / TOKENIZER)
        text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
        (fresh / RUN).write_text(text, encoding="utf-8")
        (fresh / METRICS).touch()  # a folder without one counts as a run that never began, and may be taken over
        save_checkpoint(fresh / CHECKPOINTS, recipe, tensors, {}, State(spent=Spent(), peak_memory_bytes=0))
    return recipe


def read_model(folder: Path, *, name: str) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a model folder and its tensors under Litmus's names, in fp32."""
    config = read_config(folder)
    chosen = format_named(config)
    theirs = {chosen.renamed(key): tensor for key, tensor in read_tensors(folder).items()}
    found = {key: tensor for key, tensor in theirs.items() if key is not None}
    described = {"name": name, "about": f"Imported from a {chosen.architecture}.", **chosen.recipe(config, found)}
    recipe = resolve(described)
    model = blank(recipe)
    return recipe, to_ours(chosen.rules(model), found, weights(model), str(folder))


def _bytes_for(recipe: Recipe, announce: Announce) -> Tokenizer:
    tokenizer = ByteTokenizer()
    if recipe.vocab_size < tokenizer.vocab_size:
        raise BadInput(
            f"the folder has no tokenizer.json, and a vocabulary of {recipe.vocab_size} is too small for bytes, "
            f"which needs {tokenizer.vocab_size}; put the model's tokenizer.json beside its config.json"
        )
    announce(
        "the folder has no tokenizer.json: the run takes one token per byte, which a trained model was not made for"
    )
    return tokenizer
