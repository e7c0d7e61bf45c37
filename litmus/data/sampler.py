"""Training batches as a pure function of (seed, step), and evaluation windows that cover every token once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from litmus.data.tokens.token_files import Examples
from litmus.errors import BadInput

NOT_SCORED = -100


class SampledBatch(NamedTuple):
    """Inputs and targets, (B, T) int64, and the position in the token stream at which each row starts."""

    inputs: torch.Tensor
    targets: torch.Tensor
    windows: list[int]


class PackedBatch(NamedTuple):
    """Inputs and targets, (B, T) int64, the number of each row, and the document (B, T) of each token, which sees no
    other."""

    inputs: torch.Tensor
    targets: torch.Tensor
    windows: list[int]
    documents: torch.Tensor


class Sampler:
    """Windows of `context` tokens from a token stream, in an order fixed by `seed`.

    In every epoch the windows start at multiples of `stride` (default: `context`, so that they do not overlap)
    plus a random offset of that epoch, and each window occurs exactly once, in a random order of that epoch.
    `batch` counts the rows of all `world` ranks together; rank r gets the r-th share of every global batch.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        context: int,
        batch: int,
        seed: int,
        stride: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        check_window_fits(tokens, context, "train")
        if stride is not None and stride < 1:
            raise BadInput(f"stride is {stride}; it must be at least 1 (default: the context, {context})")
        if batch < 1 or batch % world_size:
            raise BadInput(f"batch is {batch}; it must be a positive multiple of the number of processes, {world_size}")
        if seed < 0:
            raise BadInput(f"seed is {seed}; it must be 0 or more")
        self.tokens = np.asarray(tokens)  # a plain view of a memory map slices several times faster
        self.context = context
        self.batch_size = batch
        self.seed = seed
        self.stride = stride or context
        self._rows = range(rank * batch // world_size, (rank + 1) * batch // world_size)
        last_start = len(tokens) - context - 1
        self._largest_offset = min(self.stride - 1, last_start)
        # The number that fits for any offset, so that all epochs are equally long and a step's epoch is a division.
        self.windows_per_epoch = (last_start - self._largest_offset) // self.stride + 1
        self._epoch = lru_cache(maxsize=2)(self._epoch_order)

    def batch(self, step: int) -> SampledBatch:
        """The rows of this rank in the batch of `step` (from 0)."""
        starts = [self._start(step * self.batch_size + row) for row in self._rows]
        rows = np.stack([self.tokens[start : start + self.context + 1] for start in starts])
        both = torch.from_numpy(rows.astype(np.int64))
        return SampledBatch(both[:, :-1].contiguous(), both[:, 1:].contiguous(), starts)

    def _start(self, index: int) -> int:
        epoch, place = divmod(index, self.windows_per_epoch)
        offset, order = self._epoch(epoch)
        return offset + int(order[place]) * self.stride

    def _epoch_order(self, epoch: int) -> tuple[int, np.ndarray]:
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        offset = int(random.integers(self._largest_offset + 1))
        small = self.windows_per_epoch <= 1 << 32
        order = np.arange(self.windows_per_epoch, dtype=np.uint32 if small else np.uint64)
        random.shuffle(order)
        return offset, order


class ExampleSampler:
    """Batches of generated examples, new ones in every step, in an order fixed by `seed`."""

    def __init__(self, examples: Examples, *, batch: int, seed: int) -> None:
        self.context, self.batch_size = examples.length, batch
        self.windows_per_epoch: int | None = None  # no example comes twice
        self._examples, self._seed = examples, seed

    def batch(self, step: int) -> SampledBatch:
        """The examples of `step` (from 0)."""
        inputs, targets = map(torch.from_numpy, self._examples.batch(self._seed, "train", step, self.batch_size))
        return SampledBatch(inputs, targets, list(range(step * self.batch_size, (step + 1) * self.batch_size)))


def held_out_windows(
    tokens: np.ndarray,
    *,
    context: int,
    batch: int,
    limit_tokens: int | None = None,
    prefix: Sequence[int] = (),
    given: Collection[int] = (),
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets, (B, T) int64 each, in non-overlapping windows of `context` tokens.

    Every token but the stream's first is a target once; the last window is filled up with targets of -100.
    `limit_tokens` limits the number of targets, to windows spread evenly over the stream. The last batch may have fewer
    rows. `prefix` is put before every window that does not begin with it, within `context`; targets in `given` are not
    scored, because they are never predicted.
    """
    check_window_fits(tokens, context, "held-out")
    if batch < 1 or (limit_tokens is not None and limit_tokens < 1):
        raise BadInput(f"limit_tokens is {limit_tokens} and batch is {batch}; both must be at least 1")
    if context <= len(prefix):
        raise BadInput(f"context is {context}, and {len(prefix)} tokens precede every sequence; give more")
    return _with_prefix_and_unscored(_windows(tokens, context - len(prefix), batch, limit_tokens), prefix, given)


def _with_prefix_and_unscored(
    windows: Iterator[tuple[torch.Tensor, torch.Tensor]], prefix: Sequence[int], given: Collection[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for inputs, targets in windows:
        if given:
            targets[torch.isin(targets, torch.tensor(sorted(given)))] = NOT_SCORED
        yield (inputs, targets) if not prefix else _with_prefix(inputs, targets, torch.tensor(prefix))


def _with_prefix(
    inputs: torch.Tensor, targets: torch.Tensor, prefix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows with `prefix` before them, or equally much padding after those that begin with it."""
    before, nothing = prefix.expand(len(inputs), -1), torch.full((len(inputs), len(prefix)), NOT_SCORED)
    begun = (inputs[:, : len(prefix)] == before).all(dim=1, keepdim=True)
    padded = torch.cat((inputs, torch.zeros_like(before)), 1), torch.cat((targets, nothing), 1)
    return (
        torch.where(begun, padded[0], torch.cat((before, inputs), 1)),
        torch.where(begun, padded[1], torch.cat((nothing, targets), 1)),
    )


def _windows(
    tokens: np.ndarray, context: int, batch: int, limit_tokens: int | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    left = len(tokens) - 1 if limit_tokens is None else min(limit_tokens, len(tokens) - 1)
    all_windows, chosen = -(-(len(tokens) - 1) // context), -(-left // context)
    # The middle of each of `chosen` equal stretches; all windows, in order, without a limit.
    starts = [(2 * number + 1) * all_windows // (2 * chosen) * context for number in range(chosen)]
    for first in range(0, chosen, batch):
        rows = starts[first : first + batch]
        inputs = torch.zeros(len(rows), context, dtype=torch.int64)
        targets = torch.full((len(rows), context), NOT_SCORED)
        for row, start in enumerate(rows):
            window = torch.from_numpy(tokens[start : start + min(context, left) + 1].astype(np.int64))
            scored = len(window) - 1
            inputs[row, :scored] = window[:-1]
            targets[row, :scored] = window[1:]
            left -= scored
        yield inputs, targets


def document_ids(inputs: torch.Tensor, first: int) -> torch.Tensor:
    """(B, T) int64: index of the document within its row; the token `first` begins each document."""
    return (inputs == first).cumsum(dim=1)


def check_window_fits(tokens: np.ndarray, context: int, split: str) -> None:
    """Raise BadInput unless `tokens` hold one window: `context` inputs and the target of the last one."""
    if context < 1:
        raise BadInput(f"context is {context}; it must be at least 1")
    if len(tokens) <= context:
        raise BadInput(
            f"the {split} split is shorter than one window: it has {len(tokens)} tokens, and a context of {context} "
            f"needs {context + 1}; use a longer corpus or a shorter context"
        )
