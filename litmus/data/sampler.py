"""Training batches as a pure function of (seed, ctx): no state to save, and any rank can compute its own share."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from litmus.data.windows import check_one_window
from litmus.errors import BadInput


class Batch(NamedTuple):
    """Inputs and targets, (B, T) int64, and the position in the token stream at which each row starts."""

    inputs: torch.Tensor
    targets: torch.Tensor
    windows: list[int]


class Sampler:
    """Windows of `context` tokens from a token stream, in an order fixed by `seed`.

    In every epoch the windows start at multiples of `stride` (default: `context`, so that they do not overlap)
    plus an offset drawn for that epoch, and each window comes exactly once, in an order drawn for that epoch.
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
        world: int = 1,
    ):
        check_one_window(tokens, context, "train")
        if stride is not None and stride < 1:
            raise BadInput(f"stride is {stride}; it must be at least 1 (default: the context, {context})")
        if batch < 1 or batch % world:
            raise BadInput(f"batch is {batch}; it must be a positive multiple of the number of processes, {world}")
        if seed < 0:
            raise BadInput(f"seed is {seed}; it must be 0 or more")
        self.tokens = np.asarray(tokens)  # a plain view of a memory map slices several times faster
        self.context = context
        self.batch_size = batch
        self.seed = seed
        self.stride = stride or context
        self._rows = range(rank * batch // world, (rank + 1) * batch // world)
        last_start = len(tokens) - context - 1
        self._largest_offset = min(self.stride - 1, last_start)
        # The count that fits whatever the offset, so that epochs are equally long and a step's epoch is a division.
        self.windows_per_epoch = (last_start - self._largest_offset) // self.stride + 1
        self._epoch = lru_cache(maxsize=2)(self._drawn)

    def batch(self, step: int) -> Batch:
        """The rows of this rank in the batch of `step` (from 0)."""
        starts = [self._start(step * self.batch_size + row) for row in self._rows]
        rows = np.stack([self.tokens[start : start + self.context + 1] for start in starts])
        both = torch.from_numpy(rows.astype(np.int64))
        return Batch(both[:, :-1].contiguous(), both[:, 1:].contiguous(), starts)

    def _start(self, index: int) -> int:
        epoch, place = divmod(index, self.windows_per_epoch)
        offset, order = self._epoch(epoch)
        return offset + int(order[place]) * self.stride

    def _drawn(self, epoch: int) -> tuple[int, np.ndarray]:
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        offset = int(random.integers(self._largest_offset + 1))
        small = self.windows_per_epoch <= 1 << 32
        order = np.arange(self.windows_per_epoch, dtype=np.uint32 if small else np.uint64)
        random.shuffle(order)
        return offset, order
