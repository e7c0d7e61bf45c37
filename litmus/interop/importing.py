"""A Hugging Face model folder as a run: recipe, tokenizer, and a checkpoint at step 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from torch import Tensor

from litmus.data import DataSettings, TokenData, Tokenizer, prepare
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
from litmus.training.run import CHECKPOINTS, METRICS, RUN, TOKENIZER, Description, describe
from litmus.training.settings import TrainSettings

UNKNOWN = "unknown"
"""What run.yaml gives as the corpus of a model whose training data nobody here knows."""

Announce = Callable[[str], None]


def import_run(
    folder: Path,
    run: Path,
    *,
    corpus: str | None = None,
    settings: TrainSettings | None = None,
    use_bytes: bool = False,
    announce: Announce = lambda text: None,
) -> Description:
    """Make the run folder `run` from a model folder: a training that stands at step 0, with the model's weights.

    With a `corpus` it is a training on that corpus by `settings`, which `litmus train` takes up; without one it can be
    generated from, and scored on any corpus. `use_bytes` takes one token per byte in place of the model's tokenizer.
    BadInput for an unsupported architecture, weights that are not safetensors, and tensors that do not fit.
    """
    if run.exists():
        raise BadInput(f"{run} is there already; choose another name with --name, or delete it")
    recipe, tensors = read_model(folder, name=run.name)
    tokenizer = ByteTokenizer() if use_bytes else read_tokenizer(folder) or _bytes_instead(announce)
    if tokenizer.vocab_size > recipe.vocab_size:
        announce(f"the tokenizer has {tokenizer.vocab_size} tokens and the model {recipe.vocab_size}: it takes no text")
    data_settings = DataSettings(corpus=corpus or UNKNOWN, tokenizer=tokenizer.name)
    data = _unknown(tokenizer) if corpus is None else _prepared(data_settings, tokenizer, recipe, announce)
    data = replace(data, provenance={**data.provenance, "imported_from": str(folder)})
    description = describe(recipe, data, data_settings, settings or TrainSettings())
    with folder_written_atomically(run) as fresh:
        (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        tokenizer.save(fresh / TOKENIZER)
        text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
        (fresh / RUN).write_text(text, encoding="utf-8")
        (fresh / METRICS).touch()  # a folder without one counts as a run that never began, and may be taken over
        save_checkpoint(fresh / CHECKPOINTS, recipe, tensors, {}, State(spent=Spent(), peak_memory_bytes=0))
    return description


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


def _prepared(settings: DataSettings, tokenizer: Tokenizer, recipe: Recipe, announce: Announce) -> TokenData:
    """The token data to train on; its tokenizer must be the model's, and leave no row of the embedding over."""
    data = prepare(settings, announce=announce)
    if data.tokenizer.pieces != tokenizer.pieces:
        raise BadInput(
            f"{settings.tokenizer!r} learned from {settings.corpus!r} is not the model's tokenizer; "
            f"train on the corpus it was learned from"
        )
    if tokenizer.vocab_size != recipe.vocab_size:
        raise BadInput(
            f"the tokenizer {tokenizer.name!r} has {tokenizer.vocab_size} tokens and the model {recipe.vocab_size}; "
            f"a training needs equal numbers"
        )
    return data


def _unknown(tokenizer: Tokenizer) -> TokenData:
    nothing = np.empty(0, dtype=np.uint32)
    return TokenData(nothing, nothing, tokenizer, "", {})


def _bytes_instead(announce: Announce) -> Tokenizer:
    announce("the folder has no tokenizer.json: the run takes one token per byte, which the model may not know")
    return ByteTokenizer()
