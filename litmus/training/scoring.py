"""`litmus eval`: score a run again, on its own held-out text or on another corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from litmus.data import DataSettings, TokenData, prepare
from litmus.data.corpora import resolve
from litmus.data.documents import read_pieces
from litmus.data.splits import decide_split
from litmus.errors import BadInput
from litmus.model.plugins import plugin_faults
from litmus.runtime.device import pick_device
from litmus.runtime.precision import Precision, autocast, cast_parameters, matmul_precision
from litmus.training.evaluation import Evaluation, evaluate
from litmus.training.run import load_run


def score_run(
    folder: str | Path,
    *,
    corpus: str | None = None,
    limit_tokens: int | None = None,
    limit_bytes: int | None = None,
    context: int | None = None,
    best: bool = False,
    precision: Precision | None = None,
    device: str = "auto",
    trust_plugin: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """The score of a run's newest (or best) checkpoint over every held-out token, or the first so many.

    Corpus, context and precision are those of the training unless given; another corpus is read with the run's own
    tokenizer, and its held-out split is scored.
    """
    folder = Path(folder)
    run = load_run(folder, best=best, trust_plugin=trust_plugin, announce=announce)
    trained = run.description
    if corpus is None or corpus == trained.data.corpus:
        data = prepare(_own_tokenizer(trained.data, folder), announce=announce)
        if data.fingerprint != trained.data_fingerprint:
            announce(
                f"the corpus {trained.data.corpus!r} is not what the run was trained on: its text has changed since"
            )
    else:
        data = _held_out_of(corpus, trained.data, run.tokenizer, announce)
    chosen = precision or trained.resolved.precision
    where = pick_device(device)
    run.model.to(where)
    cast_parameters(run.model, chosen)
    with plugin_faults(run.model.recipe, "scoring"), matmul_precision(chosen), autocast(chosen, where):
        return evaluate(
            run.model,
            data,
            context=context or trained.resolved.context,
            batch=trained.training.batch,
            limit_tokens=limit_tokens,
            limit_bytes=limit_bytes,
            isolate_documents=trained.training.isolate_documents,
        )


def _own_tokenizer(settings: DataSettings, folder: Path) -> DataSettings:
    """The settings with a tokenizer from a file taken from the run's own copy, which is there as long as the run is."""
    named_by_file = Path(settings.tokenizer).exists() or "/" in settings.tokenizer
    return settings.model_copy(update={"tokenizer": str(folder)}) if named_by_file else settings


def _held_out_of(corpus: str, like: DataSettings, tokenizer: Any, announce: Callable[[str], None]) -> TokenData:
    """The held-out split of another corpus in the tokens of a run, held in memory."""
    files = resolve(corpus, sample_bytes=None, announce=announce).files
    split = decide_split(read_pieces(files), like.held_out)
    stream: list[np.ndarray] = [np.array(tokenizer.prefix)]
    document = None
    for place, piece in split.place(read_pieces(files)):
        if place != "held_out":
            continue
        goes_on = document == piece.document
        if document is not None and not goes_on:
            stream.append(np.array(tokenizer.between))
        document = piece.document
        stream.append(np.array(tokenizer.encode_batch([piece.text.decode()], [goes_on])[0]))
    if document is None:
        raise BadInput(f"the corpus {corpus!r} is too short to hold out {like.held_out:g} of it")
    tokens = np.concatenate([*stream, [tokenizer.end]]).astype(np.uint32)
    return TokenData(tokens, tokens, tokenizer, "", {"corpus": corpus})
