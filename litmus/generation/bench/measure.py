"""The measurement: a check that all strategies generate the same text, then their times, interleaved."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from litmus.errors import BadInput, Failed
from litmus.generation import generate
from litmus.generation.bench.strategies import DecodeStrategy
from litmus.generation.engine import check_cache_memory
from litmus.model import Decoder
from litmus.model.plugins import plugin_faults
from litmus.nn import reference_path

MAX_LOGIT_GAP_STD = 1e-3
"""Largest gap between the top logit and that of the generated token, in standard deviations of the logits, that
rounding explains."""

MAX_SECONDS_PER_TEXT = 600.0

ADVICE = "ask for less with --prompt-tokens, --batch or --new-tokens"


@dataclass
class Cell:
    """The times of one strategy at one prompt length and batch size.

    `runs` holds, for each repeat, the seconds from the start to each token.
    """

    strategy: str
    prompt: int
    batch: int
    cache_bytes: int
    runs: list[list[float]]

    @property
    def total(self) -> list[float]:
        return [run[-1] for run in self.runs]

    @property
    def first(self) -> list[float]:
        return [run[0] for run in self.runs]

    @property
    def per_token(self) -> list[float]:
        """Mean seconds per token after the first, of each run."""
        return [(run[-1] - run[0]) / max(1, len(run) - 1) for run in self.runs]

    @property
    def by_position(self) -> list[float]:
        """Median over the runs of the seconds of each token after the first."""
        steps = [[later - earlier for earlier, later in pairwise(run)] for run in self.runs]
        return [statistics.median(times) for times in zip(*steps, strict=True)]

    @property
    def tokens_per_second(self) -> list[float]:
        return [self.batch * len(run) / run[-1] for run in self.runs]


def measure(
    strategies: Sequence[DecodeStrategy],
    prompts: Sequence[Tensor],
    *,
    new_tokens: int,
    repeats: int,
    log: Callable[[str], None] = lambda text: None,
) -> list[Cell]:
    """The times of all strategies on each of `prompts` (B, T); each repeat times all on all: A B C A B C ...

    Failed, before anything is timed, when a strategy generates another text than the plain forward pass.
    """
    if new_tokens < 2 or repeats < 1:
        raise BadInput(f"{repeats} repeats of {new_tokens} tokens measure nothing; at least 1 of 2 are needed")

    def applicable(batch: Tensor) -> list[DecodeStrategy]:
        return [one for one in strategies if len(batch) <= (one.max_batch_size or len(batch))]

    def guarded(strategy: DecodeStrategy) -> contextlib.AbstractContextManager[None]:
        return plugin_faults(strategy.model.recipe, "decoding", seconds=MAX_SECONDS_PER_TEXT, advice=ADVICE)

    for batch in prompts:
        for strategy in applicable(batch):
            log(f"checking {strategy.name}, {_shape(batch)}")
            check_cache_memory(strategy.model, len(batch), batch.shape[1] + new_tokens)
            with guarded(strategy):
                check_equal(strategy, batch, new_tokens)
    timings = []
    for batch in prompts:
        rows, length = batch.shape
        for strategy in applicable(batch):
            cell = Cell(strategy.name, length, rows, strategy.cache_bytes(rows, length + new_tokens), [])
            timings.append((strategy, batch, cell))
    for repeat in range(repeats):
        for strategy, batch, cell in timings:
            log(f"timing {strategy.name}, {_shape(batch)}, {repeat + 1} of {repeats}")
            with guarded(strategy):
                cell.runs.append(timed(strategy, batch, new_tokens))
    return [cell for *_, cell in timings]


def timed(strategy: DecodeStrategy, prompts: Tensor, number: int) -> list[float]:
    """Seconds from the start to each token; reading the tokens waits for the device."""
    prompts[0, 0].item()
    start, times = time.perf_counter(), []
    for tokens in strategy.tokens(prompts, number):
        tokens.tolist()
        times.append(time.perf_counter() - start)
    return times


@torch.inference_mode()
def check_equal(strategy: DecodeStrategy, prompts: Tensor, number: int) -> None:
    """Failed unless, in fp32, each token has the top logit of the plain forward pass over the text before it."""
    new = torch.stack(list(strategy.tokens(prompts, number, exact=True)), dim=1).to(prompts.device)
    text = torch.cat((prompts, new), dim=1)
    with reference_path():
        logits = strategy.exact.head(strategy.exact.hidden(text)[:, prompts.shape[1] - 1 : -1])
    gap = (logits.amax(-1) - logits.gather(-1, new[..., None])[..., 0]) / logits.std(-1)
    if bool((gap > MAX_LOGIT_GAP_STD).any()):
        row, step = divmod(int(gap.argmax()), number)
        found, expected = int(new[row, step]), int(logits[row, step].argmax())
        raise Failed(
            f"{strategy.name} is not equal to the plain forward pass: row {row} has {found} as its new token {step}, "
            f"where the logit of {expected} is larger by {float(gap[row, step]):.3g} standard deviations; nothing was "
            f"timed"
        )


def random_prompts(model: Decoder, rows: int, length: int, seed: int = 0) -> Tensor:
    """Prompts (B, T) of random tokens, for untrained models."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(model.recipe.vocab_size, (rows, length), generator=generator)
    return prompts.to(model.device)


def self_generated_prompts(model: Decoder, rows: int, length: int, seed: int = 0) -> Tensor:
    """Prompts (B, T) that the model generates from a random token."""
    prompts = random_prompts(model, rows, 1, seed).tolist()
    if length > 1:
        new = generate(model, prompts, max_new_tokens=length - 1, temperature=1.0, seed=seed)
        prompts = [[*first, *rest] for first, rest in zip(prompts, new, strict=True)]
    return torch.tensor(prompts, device=model.device)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


def _shape(batch: Tensor) -> str:
    return f"{len(batch)} x {batch.shape[1]} tokens"
