"""Batches of windows: many are packed into one row, and each stays a document of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from litmus.data.sampler import NOT_SCORED, ExampleSampler, PackedBatch, Sampler
from litmus.data.tokens.token_files import TokenData, Windows
from litmus.errors import BadInput


class PackedRows(NamedTuple):
    """Rows of windows: inputs, targets, document_ids and owners (B, T) int64.

    The targets of what is not trained on are -100. document_ids counts the windows of a row, padding at its end being
    one more. owners: the number of each token's window, -1 at padding.
    """

    inputs: Tensor
    targets: Tensor
    document_ids: Tensor
    owners: Tensor


@dataclass(frozen=True)
class Packing:
    """Which windows stand in which row: those of row r are order[rows[r] : rows[r + 1]]."""

    order: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows) - 1

    def row(self, number: int) -> np.ndarray:
        """The windows of a row."""
        return self.order[self.rows[number] : self.rows[number + 1]]


def pack(lengths: np.ndarray, capacity: int, seed: int = 0) -> Packing:
    """Pack windows of `lengths` (W,) into rows of `capacity`: each row takes the longest windows left that still fit.

    `seed` decides which windows of one length go where. BadInput for a window that fits in no row.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise BadInput(
            f"a window of the threads has {int(lengths.max())} tokens, and the context is {capacity}; a longer context "
            f"or --chat max_tokens={capacity} is valid"
        )
    shuffled = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(lengths))
    by_length = {int(n): shuffled[lengths[shuffled] == n].tolist() for n in np.unique(lengths)}
    left = sorted(by_length)
    order: list[int] = []
    rows = [0]
    while left:
        room = capacity
        while (place := bisect_right(left, room) - 1) >= 0:
            length = left[place]
            order.append(by_length[length].pop())
            room -= length
            if not by_length[length]:
                left.pop(place)
        rows.append(len(order))
    return Packing(np.array(order, dtype=np.int64), np.array(rows, dtype=np.int64))


def fill(windows: Windows, members: list[np.ndarray], context: int) -> PackedRows:
    """The rows that hold the windows `members`, padded to `context` tokens."""
    shape = (len(members), context)
    inputs, targets = np.zeros(shape, dtype=np.int64), np.full(shape, NOT_SCORED, dtype=np.int64)
    documents, owners = np.zeros(shape, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
    for row, numbers in enumerate(members):
        at = 0
        for document, number in enumerate(numbers.tolist()):
            ids, scored = windows.window(number)
            end = at + len(ids) - 1
            inputs[row, at:end] = ids[:-1]
            targets[row, at:end] = np.where(scored[1:], ids[1:].astype(np.int64), NOT_SCORED)
            documents[row, at:end] = document
            owners[row, at:end] = number
            at = end
        documents[row, at:] = len(numbers)
    return PackedRows(*map(torch.from_numpy, (inputs, targets, documents, owners)))


class WindowSampler:
    """The windows of a split, packed into rows of `context` tokens, in an order fixed by `seed`.

    Which windows share a row is the same in every epoch, as they do not see each other; the order of the rows is random
    in each, and every row occurs once. `batch` counts the rows of all `world_size` ranks together.
    """

    def __init__(
        self, windows: Windows, *, context: int, batch: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch < 1 or batch % world_size:
            raise BadInput(f"batch is {batch}; it must be a positive multiple of the number of processes, {world_size}")
        self.windows, self.context, self.batch_size, self.seed = windows, context, batch, seed
        self.packing = pack(windows.lengths, context, seed)
        self.windows_per_epoch = len(self.packing)
        self._rows = range(rank * batch // world_size, (rank + 1) * batch // world_size)
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    @property
    def padding(self) -> float:
        """The fraction of all rows that is padding."""
        return 1 - int(self.windows.lengths.sum()) / (len(self.packing) * self.context)

    def batch(self, step: int) -> PackedBatch:
        """The rows of this rank in the batch of `step` (from 0)."""
        places = (divmod(step * self.batch_size + row, len(self.packing)) for row in self._rows)
        numbers = [int(self._order(epoch)[place]) for epoch, place in places]
        rows = fill(self.windows, [self.packing.row(number) for number in numbers], self.context)
        return PackedBatch(rows.inputs, rows.targets, numbers, rows.document_ids)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch + 1])).permutation(len(self.packing))


def sampler_of(
    data: TokenData, *, context: int, batch: int, seed: int, stride: int | None = None
) -> Sampler | WindowSampler | ExampleSampler:
    """The batches of the train split: generated examples, windows of threads, or of a token stream."""
    if data.examples is not None:
        return ExampleSampler(data.examples, batch=batch, seed=seed)
    if data.windows is None:
        return Sampler(data.train, context=context, batch=batch, seed=seed, stride=stride)
    if stride is not None:
        raise BadInput(f"stride is {stride}, and windows of threads have no stride; leave it out")
    return WindowSampler(data.windows["train"], context=context, batch=batch, seed=seed)


def scored_rows(windows: Windows, *, context: int, batch: int, limit_tokens: int | None = None) -> Iterator[PackedRows]:
    """All windows once, packed into rows, or windows spread evenly that have about `limit_tokens` targets."""
    chosen = np.arange(len(windows))
    if limit_tokens is not None:
        share = limit_tokens / max(int(np.count_nonzero(windows.scored)), 1)
        count = min(len(windows), max(1, round(share * len(windows))))
        chosen = np.unique(np.linspace(0, len(windows) - 1, count).round().astype(np.int64))
    packing = pack(windows.lengths[chosen], context)
    for first in range(0, len(packing), batch):
        rows = range(first, min(first + batch, len(packing)))
        yield fill(windows, [chosen[packing.row(row)] for row in rows], context)
