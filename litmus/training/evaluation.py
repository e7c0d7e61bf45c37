"""Evaluation of a model or a run: bits per byte and nats per token over held-out tokens, each scored exactly once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from litmus.data import DataSettings, TokenData, prepare
from litmus.data.chat.batches import scored_rows
from litmus.data.preparation import THREADS
from litmus.data.sampler import NOT_SCORED, check_window_fits, document_ids, held_out_windows
from litmus.data.text.corpora import resolve
from litmus.data.text.documents import read_pieces
from litmus.data.tokens.hf_tokenizer_files import TEMPLATE
from litmus.data.tokens.splits import decide_split
from litmus.data.tokens.token_files import Examples
from litmus.diagnostics import layer_stats
from litmus.errors import BadInput
from litmus.model.plugins import plugin_faults
from litmus.nn import Batch, RouterStats
from litmus.runtime.device import pick_device
from litmus.runtime.precision import Precision, autocast, cast_parameters, matmul_precision
from litmus.training.answers import score_answers
from litmus.training.run.config import LoadedRun, read_config
from litmus.training.run.loading import load_run
from litmus.training.thread_scores import ThreadScores, ThreadTally

STATS_TOKENS = 1024
"""Approximate number of tokens that the statistics of layers and routers are over."""


def _by_layer(raw: Any) -> Any:
    """Version 0.1.0 wrote lists, whose entries are those of the layers from 0 on."""
    return dict(enumerate(raw)) if isinstance(raw, list) else raw


T = TypeVar("T")
ByLayer = Annotated[dict[int, T], BeforeValidator(_by_layer)]
"""One value for each layer that has it, by the layer's number from 0."""


class Evaluation(BaseModel):
    """The score of a model on `tokens` tokens of the held-out split, which are `bytes` bytes of text.

    nats_per_token: mean negative log-likelihood. bits_per_byte: sum of nats / (ln 2 · bytes), which unlike the former
    can be compared between tokenizers. loss_by_position: mean nats at each position of a window; later positions have
    more context. attention_entropy: mean entropy of the attention weights in nats. layer_stats: other statistics of
    layers, by name. routing: load balance of the routers of experts. These three are by layer, from 0, for layers that
    have them, over about 1024 tokens in windows spread over the held-out split. threads: of runs on threads, whose
    target tokens alone are scored. Version 0.1.0 wrote `layer_figures`.

    Of the examples of a probe only answers are scored, and each counts as one byte. accuracy: the share of right
    answers, by the length of the test examples and its mean over the lengths.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    nats_per_token: float
    bits_per_byte: float
    perplexity: float
    tokens: int
    bytes: int
    loss_by_position: list[float]
    attention_entropy: ByLayer[float] | None = None
    layer_stats: dict[str, ByLayer[float]] = Field(
        default={}, validation_alias=AliasChoices("layer_stats", "layer_figures")
    )
    routing: ByLayer[RouterStats] | None = None
    threads: ThreadScores | None = None
    accuracy: float | None = None
    accuracy_by_length: dict[int, float] = {}


@torch.no_grad()
def evaluate(
    model: Any,
    data: TokenData,
    *,
    context: int,
    batch: int,
    limit_tokens: int | None = None,
    limit_bytes: int | None = None,
    isolate_documents: bool = False,
    split: str = "held_out",
) -> Evaluation:
    """Score `model` in evaluation mode over the held-out split in non-overlapping windows of `context` tokens.

    `limit_tokens` scores only that many, in windows spread evenly over the split; `limit_bytes` only the first bytes,
    which are the same for every tokenizer. Of threads the target tokens of the windows of `split` are scored. The
    model's mode and parameters stay as they are.
    """
    if data.examples is not None:
        return _evaluate_examples(model, data.examples, limit_tokens)
    held_out = data.held_out if limit_bytes is None else data.held_out[: tokens_within(data, limit_bytes) + 1]
    device = next(model.parameters()).device
    nats = torch.zeros(context, dtype=torch.float64)
    scored = torch.zeros(context, dtype=torch.int64)
    text_bytes = 0
    tally = None
    if data.windows is not None and split == "held_out":
        tally = ThreadTally(data.windows[split], set(data.tokenizer.special.values()))
    was_training = model.training
    model.eval()
    try:
        for rows in scored_windows(
            model,
            data,
            held_out,
            context=context,
            batch=batch,
            limit_tokens=limit_tokens,
            isolate_documents=isolate_documents,
            split=split,
            end=None if tally is None else tally.end,
        ):
            places = rows.positions[rows.is_scored]
            nats.index_add_(0, places, rows.losses[rows.is_scored].double())
            scored.index_add_(0, places, torch.ones_like(places))
            text_bytes += int(rows.bytes.sum())
            if tally is not None and rows.end_losses is not None and rows.owners is not None:
                tally.add(rows.losses, rows.end_losses, rows.targets, rows.is_scored, rows.owners)
        sample = _sample(held_out, context, int(scored.sum())).to(device)
        measured = layer_stats(model, sample)
    finally:
        model.train(was_training)
    tokens = int(scored.sum())
    if not text_bytes:
        raise BadInput(
            f"the held-out split holds {tokens} tokens of text to score; give a larger corpus or held_out share"
        )
    total = float(nats.sum())
    occupied = scored > 0
    return Evaluation(
        nats_per_token=total / tokens,
        bits_per_byte=total / (math.log(2) * text_bytes),
        perplexity=math.exp(min(total / tokens, 700.0)),
        tokens=tokens,
        bytes=text_bytes,
        loss_by_position=(nats[occupied] / scored[occupied]).tolist(),
        attention_entropy=measured.stats.pop("attention_entropy", None),
        layer_stats=measured.stats,
        routing=measured.routing or None,
        threads=None if tally is None else tally.result(),
    )


def _evaluate_examples(model: Any, examples: Examples, limit_tokens: int | None) -> Evaluation:
    was_training = model.training
    model.eval()
    try:
        answers = score_answers(model, examples, limit_tokens)
        measured = layer_stats(model, answers.sample.to(next(model.parameters()).device))
    finally:
        model.train(was_training)
    mean = answers.nats / answers.count
    return Evaluation(
        nats_per_token=mean,
        bits_per_byte=mean / math.log(2),
        perplexity=math.exp(min(mean, 700.0)),
        tokens=answers.count,
        bytes=answers.count,
        loss_by_position=answers.loss_by_position,
        attention_entropy=measured.stats.pop("attention_entropy", None),
        layer_stats=measured.stats,
        routing=measured.routing or None,
        accuracy=fmean(answers.right.values()),
        accuracy_by_length=answers.right,
    )


class ScoredRows(NamedTuple):
    """Rows of held-out windows, all (B, T): targets, whether each is scored, its nats, and its bytes of text.

    positions: of each token in its row, or of threads in its window. owners: of threads the number of each token's
    window, -1 at padding. end_losses: nats of the control token that ends a turn in place of each target, if asked for.
    """

    targets: Tensor
    is_scored: Tensor
    losses: Tensor
    bytes: Tensor
    positions: Tensor
    owners: Tensor | None = None
    end_losses: Tensor | None = None


@torch.no_grad()
def scored_windows(
    model: Any,
    data: TokenData,
    tokens: np.ndarray,
    *,
    context: int,
    batch: int,
    limit_tokens: int | None = None,
    isolate_documents: bool = False,
    split: str = "held_out",
    end: int | None = None,
) -> Iterator[ScoredRows]:
    """The scores of windows over `tokens`, or of the windows of threads of `split`; of these also the nats of `end`."""
    device = next(model.parameters()).device
    if data.windows is not None:
        windows = data.windows[split]
        for row in scored_rows(windows, context=context, batch=batch, limit_tokens=limit_tokens):
            batch_of = _on(device, Batch(row.inputs, row.targets, row.document_ids))
            scores = _scores(model, data, batch_of, _positions_in_documents(row.document_ids))
            if end is not None:
                ends = torch.where(batch_of.scored_targets == NOT_SCORED, NOT_SCORED, end)
                scores = scores._replace(end_losses=model.token_losses(replace(batch_of, targets=ends)).cpu())
            yield scores._replace(owners=row.owners)
        return
    tokenizer = data.tokenizer
    stream = held_out_windows(
        tokens,
        context=context,
        batch=batch,
        limit_tokens=limit_tokens,
        prefix=tokenizer.window_prefix,
        given=() if tokenizer.prefix == (tokenizer.eos_id,) else tokenizer.prefix,
    )
    for inputs, targets in stream:
        documents = document_ids(inputs, tokenizer.prefix[0]) if isolate_documents else None
        positions = torch.arange(inputs.shape[1]).expand_as(inputs)
        yield _scores(model, data, _on(device, Batch(inputs, targets, documents)), positions)


def _scores(model: Any, data: TokenData, batch: Batch, positions: Tensor) -> ScoredRows:
    targets, inputs = batch.scored_targets.cpu(), batch.tokens.cpu()
    is_scored = targets != NOT_SCORED
    sizes = torch.zeros(targets.shape, dtype=torch.int64)
    sizes[is_scored] = torch.from_numpy(data.text_bytes(targets[is_scored].numpy(), inputs[is_scored].numpy()))
    return ScoredRows(targets, is_scored, model.token_losses(batch).cpu(), sizes, positions)


def _on(device: torch.device, batch: Batch) -> Batch:
    """The batch on a device, with the number of its scored targets if they are few."""
    scored = int((batch.scored_targets != NOT_SCORED).sum())
    return Batch(
        batch.tokens.to(device),
        batch.scored_targets.to(device),
        None if batch.document_ids is None else batch.document_ids.to(device),
        max_scored=scored if 2 * scored < batch.tokens.numel() else None,
    )


def _positions_in_documents(documents: Tensor) -> Tensor:
    """The position (B, T) of each token in its document, given their contiguous ids (B, T)."""
    index = torch.arange(documents.shape[1]).expand_as(documents)
    begins = torch.nn.functional.pad(documents.diff(dim=1) != 0, (1, 0), value=True)
    return index - torch.where(begins, index, 0).cummax(dim=1).values


def evaluate_run(
    run: str | os.PathLike[str],
    *,
    data: str | None = None,
    limit_tokens: int | None = None,
    limit_bytes: int | None = None,
    context: int | None = None,
    best: bool = False,
    precision: Precision | None = None,
    device: str = "auto",
    trust_plugin: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Score a run on its held-out text, or on that of another corpus `data`, which is split and tokenized likewise.

    limit_tokens: score only that many, spread evenly. limit_bytes: only the first bytes. context: tokens in a window.
    best: the checkpoint with the lowest validation loss instead of the newest. Context and precision are those of the
    training by default. The score of a model that fails its audit (`litmus.runs.saved_audit`) is not one.
    """
    folder = Path(run)
    loaded = load_run(folder, best=best, trust_plugin=trust_plugin, log=log)
    model, config = loaded.model, loaded.config
    text = held_out_text(loaded, data, log)
    precision = precision or config.resolved.precision
    where = pick_device(device)
    model.to(where)
    cast_parameters(model, precision)
    with plugin_faults(model.recipe, "scoring"), matmul_precision(precision), autocast(precision, where):
        return evaluate(
            model,
            text,
            context=context or config.resolved.context,
            batch=config.training.batch,
            limit_tokens=limit_tokens,
            limit_bytes=limit_bytes,
            isolate_documents=config.training.isolate_documents,
        )


def held_out_text(loaded: LoadedRun, data: str | None, log: Callable[[str], None]) -> TokenData:
    """The run's own data, or the held-out text of another corpus `data` in its tokens."""
    config, folder = loaded.config, loaded.folder
    if data is not None and data != config.data.corpus:
        if data.startswith(THREADS):
            other = DataSettings(corpus=data, tokenizer=str(folder), chat=config.data.chat)
            return prepare(other.for_context(config.resolved.context), log=log)
        return _held_out_of(data, config.data, loaded.tokenizer, log)
    text = prepare(_own_tokenizer(config.data, folder), log=log)
    if text.fingerprint != config.data_fingerprint:
        log(f"the corpus {config.data.corpus!r} is not what the run was trained on: its text has changed since")
    return text


def data_of_run(folder: Path, log: Callable[[str], None]) -> TokenData:
    """The data of a run, without its model."""
    return prepare(_own_tokenizer(read_config(folder).data, folder), log=log)


def _own_tokenizer(settings: DataSettings, folder: Path) -> DataSettings:
    """The settings, in which a tokenizer and chat template named by files are replaced by the run's own copies."""
    if settings.chat is not None and settings.chat.template is not None:
        own = settings.chat.model_copy(update={"template": str(folder / TEMPLATE)})
        settings = settings.model_copy(update={"chat": own})
    named_by_file = Path(settings.tokenizer).exists() or "/" in settings.tokenizer
    return settings.model_copy(update={"tokenizer": str(folder)}) if named_by_file else settings


def _held_out_of(corpus: str, like: DataSettings, tokenizer: Any, log: Callable[[str], None]) -> TokenData:
    """The held-out split of another corpus in the tokens of a run, in memory."""
    files = resolve(corpus, sample_bytes=None, log=log).files
    split = decide_split(read_pieces(files), like.held_out)
    stream: list[np.ndarray] = [np.array(tokenizer.prefix)]
    document = None
    for half, piece in split.place(read_pieces(files)):
        if half != "held_out":
            continue
        same = document == piece.document
        if document is not None and not same:
            stream.append(np.array(tokenizer.separator))
        document = piece.document
        stream.append(np.array(tokenizer.encode_batch([piece.text.decode()], [same])[0]))
    if document is None:
        raise BadInput(f"the corpus {corpus!r} is too short to hold out {like.held_out:g} of it")
    tokens = np.concatenate([*stream, [tokenizer.eos_id]]).astype(np.uint32)
    return TokenData(tokens, tokens, tokenizer, "", {"corpus": corpus})


def check_scorable(data: TokenData, context: int, limits: Iterable[int | None]) -> None:
    """BadInput unless the held-out split has a window of `context` tokens, and text within each token limit."""
    if data.windows is not None:
        return  # its preparation has checked that there are targets
    check_window_fits(data.held_out, context, "held-out")
    for limit in limits:
        _, targets = next(held_out_windows(data.held_out, context=context, batch=1, limit_tokens=limit))
        scored = targets[targets >= 0]
        if not data.token_bytes[scored.numpy()].any():
            raise BadInput(
                f"the first {len(scored)} scored tokens hold no text to score; give a larger corpus or held_out share, "
                f"or score more tokens"
            )


def tokens_within(data: TokenData, limit_bytes: int) -> int:
    """Number of held-out targets that make up at most `limit_bytes` bytes of text."""
    if data.windows is not None:
        raise BadInput("limit_bytes is for texts; the windows of threads are limited by limit_tokens")
    # There is text between any two documents, and only the tokens that separate them have no bytes.
    reach = 2 + (1 + len(data.tokenizer.separator)) * limit_bytes
    targets = np.asarray(data.held_out[1:reach], dtype=np.int64)
    ends = np.cumsum(data.text_bytes(targets, np.asarray(data.held_out[: reach - 1][: len(targets)], dtype=np.int64)))
    tokens = int(np.searchsorted(ends, limit_bytes, side="right"))
    if tokens == 0 or ends[tokens - 1] == 0:
        raise BadInput(f"{limit_bytes} bytes are less than the first held-out token; ask for more")
    return tokens


def _sample(tokens: np.ndarray, context: int, scored: int) -> Tensor:
    """Windows without padding (B, T), about STATS_TOKENS and at most `scored` tokens spread evenly over the stream."""
    width = min(context, scored)
    windows = np.asarray(tokens[: len(tokens) - len(tokens) % width]).reshape(-1, width)
    rows = min(len(windows), max(1, min(scored, STATS_TOKENS) // width))
    return torch.from_numpy(windows[np.linspace(0, len(windows) - 1, rows).round().astype(int)].astype(np.int64))
