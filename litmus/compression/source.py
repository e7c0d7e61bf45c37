"""What is compressed: the model of a run or of a Hugging Face folder, and the text it is measured on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from litmus.compression.superweights import find_super_weights, protected_weights
from litmus.data import TokenData
from litmus.data.sampler import held_out_windows
from litmus.errors import BadInput
from litmus.interop import import_run
from litmus.nn import Batch
from litmus.training.evaluation import held_out_text
from litmus.training.run.config import RUN, UNKNOWN_CORPUS, LoadedRun
from litmus.training.run.loading import load_run

Log = Callable[[str], None]

DEFAULT_BLOCKS, DEFAULT_LENGTH = 16, 128
"""Blocks of held-out text that a model is searched and calibrated on, and tokens in each."""

MAX_TOKENS = 1 << 16
"""Tokens of all blocks together, which one forward pass holds in memory."""


def load_source(
    folder: str | Path, *, best: bool = False, trust_plugin: bool = False, log: Log = lambda text: None
) -> LoadedRun:
    """The model of a run, or of a Hugging Face folder as `litmus import` reads it, in evaluation mode."""
    folder = Path(folder)
    if not (folder / RUN).exists() and (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as place:
            run = Path(place) / "imported"
            import_run(folder, run, log=log)
            loaded = load_run(run, log=log)
    else:
        loaded = load_run(folder, best=best, trust_plugin=trust_plugin, log=log)
    loaded.model.eval()
    return loaded


def text_of(source: LoadedRun, data: str | None, log: Log = lambda text: None) -> TokenData:
    """The source's own data, or the held-out text of the corpus `data`, which an imported model needs."""
    if data is None and source.config.data.corpus == UNKNOWN_CORPUS:
        raise BadInput(f"{source.folder} was imported and has no text of its own; name one, e.g. --data stdlib")
    return held_out_text(source, data, log)


def text_blocks(
    source: LoadedRun, data: TokenData, *, blocks: int = DEFAULT_BLOCKS, length: int = DEFAULT_LENGTH
) -> Batch:
    """`blocks` windows of `length` tokens with their targets (B, T), spread evenly over the held-out text."""
    length = min(length, source.model.recipe.context)
    given = data.tokenizer.window_prefix
    if blocks * length > MAX_TOKENS:
        raise BadInput(f"{blocks} blocks of {length} tokens are {blocks * length:,}; at most {MAX_TOKENS:,} are valid")
    if len(data.held_out) <= length:
        raise BadInput(
            f"the held-out text has {len(data.held_out)} tokens, and {length + 1} are needed; give more text"
        )
    limit = blocks * (length - len(given))
    windows = held_out_windows(data.held_out, context=length, batch=blocks, limit_tokens=limit, prefix=given)
    inputs, targets = (torch.cat(parts) for parts in zip(*windows, strict=True))
    return Batch(inputs.to(source.model.device), targets.to(source.model.device))


def protected(source: LoadedRun, data: TokenData, log: Log = lambda text: None) -> dict[str, list[tuple[int, ...]]]:
    """The super weights that a search of the source finds, for pruning and quantization to leave exact."""
    search = find_super_weights(source.model, text_blocks(source, data))
    log(f"{search.verdict}; nothing to protect" if not search.super_weights else search.verdict)
    return protected_weights(search)
