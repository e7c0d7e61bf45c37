"""The measurement: first whether all ways write the same, then their times, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from litmus.errors import BadInput, Failed
from litmus.generation import generate
from litmus.generation.bench.ways import Way
from litmus.generation.memory import check_room
from litmus.model import Decoder
from litmus.model.plugins import plugin_faults

SLACK = 1e-3
"""How far below the largest logit, in standard deviations of the logits, rounding may put the token that is chosen."""

LIMIT = 600.0
"""Seconds that one text may take."""

ADVICE = "ask for less with --prompt-tokens, --batch or --new-tokens"


@dataclass
class Cell:
    """The times of one way at one prompt length and batch size.

    `runs` holds, for each repeat, the seconds from the start at which each token was there.
    """

    way: str
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
        """Mean seconds of a token after the first, in each run."""
        return [(run[-1] - run[0]) / max(1, len(run) - 1) for run in self.runs]

    @property
    def by_position(self) -> list[float]:
        """Seconds of each token after the first, the median of the runs."""
        steps = [[later - earlier for earlier, later in pairwise(run)] for run in self.runs]
        return [statistics.median(times) for times in zip(*steps, strict=True)]

    @property
    def tokens_per_second(self) -> list[float]:
        return [self.batch * len(run) / run[-1] for run in self.runs]


def measure(
    ways: Sequence[Way],
    prompts: Sequence[Tensor],
    *,
    new_tokens: int,
    repeats: int,
    told: Callable[[str], None] = lambda text: None,
) -> list[Cell]:
    """The times of all ways on each of `prompts` (B, T), each run of a way followed by one of the next: A B C A B C ...

    Failed, before anything is timed, when a way writes another text than the plain forward pass of its weights would.
    """
    if new_tokens < 2 or repeats < 1:
        raise BadInput(f"{repeats} repeats of {new_tokens} tokens measure nothing; at least 1 of 2 are needed")
    fitting = [[way for way in ways if len(batch) <= (way.most_rows or len(batch))] for batch in prompts]
    for batch, chosen in zip(prompts, fitting, strict=True):
        for way in chosen:
            told(f"checking {way.name}, {_shape(batch)}")
            check_room(way.model, len(batch), batch.shape[1] + new_tokens)
            with plugin_faults(way.model.recipe, "decoding", seconds=LIMIT, advice=ADVICE):
                check_equal(way, batch, new_tokens)
    cells = []
    for batch, chosen in zip(prompts, fitting, strict=True):
        rows, length = batch.shape
        group = [Cell(way.name, length, rows, way.cache_bytes(rows, length + new_tokens), []) for way in chosen]
        for repeat in range(repeats):
            for way, cell in zip(chosen, group, strict=True):
                told(f"timing {way.name}, {_shape(batch)}, {repeat + 1} of {repeats}")
                with plugin_faults(way.model.recipe, "decoding", seconds=LIMIT, advice=ADVICE):
                    cell.runs.append(timed(way, batch, new_tokens))
        cells += group
    return cells


def timed(way: Way, prompts: Tensor, number: int) -> list[float]:
    """Seconds from the start to each token; reading the tokens waits for the device."""
    prompts[0, 0].item()
    start, times = time.perf_counter(), []
    for tokens in way.tokens(prompts, number):
        tokens.tolist()
        times.append(time.perf_counter() - start)
    return times


@torch.inference_mode()
def check_equal(way: Way, prompts: Tensor, number: int) -> None:
    """Failed unless, in fp32, each token is the likeliest by the plain forward pass over the text before it."""
    written = torch.stack(list(way.tokens(prompts, number, exact=True)), dim=1).to(prompts.device)
    text = torch.cat((prompts, written), dim=1)
    logits = way.exact.head(way.exact.hidden(text, fast=False)[:, prompts.shape[1] - 1 : -1])
    lacking = (logits.amax(-1) - logits.gather(-1, written[..., None])[..., 0]) / logits.std(-1)
    if bool((lacking > SLACK).any()):
        row, place = divmod(int(lacking.argmax()), number)
        found, likelier = int(written[row, place]), int(logits[row, place].argmax())
        raise Failed(
            f"{way.name} is not equal to the plain forward pass: row {row} has {found} as its new token {place}, where "
            f"{likelier} is likelier by {float(lacking[row, place]):.3g} standard deviations; nothing was timed"
        )


def random_prompts(model: Decoder, rows: int, length: int, seed: int = 0) -> Tensor:
    """Prompts (B, T) of random tokens, for models that have learned nothing."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(model.recipe.vocab_size, (rows, length), generator=generator)
    return prompts.to(model.embedding.weight.device)


def own_prompts(model: Decoder, rows: int, length: int, seed: int = 0) -> Tensor:
    """Prompts (B, T) that the model writes itself, from a random token on."""
    begun = random_prompts(model, rows, 1, seed).tolist()
    if length > 1:
        written = generate(model, begun, max_new_tokens=length - 1, temperature=1.0, seed=seed)
        begun = [[*first, *rest] for first, rest in zip(begun, written, strict=True)]
    return torch.tensor(begun, device=model.embedding.weight.device)


def _shape(batch: Tensor) -> str:
    return f"{len(batch)} x {batch.shape[1]} tokens"
