"""Auxiliary losses of layers, such as the load balance of a router, and loss normalization over micro-batches.

With gradient accumulation the loss of a training step is a mean over all of its micro-batches. Within `micro_batch` the
loss of a micro-batch is its summand of that mean: sums are divided by the count of the whole step. Losses and gradients
of the micro-batches then add up to those of one large batch, however its rows are split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from litmus.nn.core.batch import IGNORED, Batch

Sums = dict[str, Tensor]
"""Sums over the tokens of a batch, such as the number of scored targets, by the name of the loss term; further ones of
the same name (of the next layers) are "name/1", "name/2", ..."""


class MicroBatch:
    """One micro-batch of a step: `sums` over its tokens, and `totals` over all micro-batches (None: not known yet)."""

    def __init__(self, totals: Mapping[str, Tensor] | None) -> None:
        self.totals = totals
        self.sums: Sums = {}
        self.shared = False

    def total(self, name: str, own: Tensor) -> Tensor:
        """Record the sum `own` of this micro-batch; return that of the step, or `own` if it is not known yet."""
        earlier = sum(key.partition("/")[0] == name for key in self.sums)
        key = f"{name}/{earlier}" if earlier else name
        self.sums[key] = own.detach()
        return own if self.totals is None else self.totals[key]


_current: MicroBatch | None = None


@contextlib.contextmanager
def micro_batch(totals: Mapping[str, Tensor] | None) -> Iterator[MicroBatch]:
    """In this block losses are those of one micro-batch of a step with these `totals`.

    With None the totals are being counted, by adding up the `sums` of each micro-batch.
    """
    global _current
    before, _current = _current, MicroBatch(totals)
    try:
        yield _current
    finally:
        _current = before


def total_of(batches: Iterable[Mapping[str, Tensor]]) -> Sums:
    """The sums of all micro-batches of a step, added up by name."""
    totals: Sums = {}
    for sums in batches:
        for name, value in sums.items():
            totals[name] = totals[name] + value if name in totals else value
    return totals


def over_step(name: str, own: Tensor) -> Tensor:
    """The sum over the whole step, given the sum `own` of this micro-batch; `own` outside of `micro_batch`."""
    return own if _current is None else _current.total(name, own)


def share_of_step(name: str, mean: Tensor, count: Tensor) -> Tensor:
    """Summand of this micro-batch in the step's mean, given the micro-batch's `mean` over `count` elements.

    An objective either calls this for each of its terms or for none; in the latter case the whole loss is treated as a
    mean over the scored targets.
    """
    if _current is not None:
        _current.shared = True
    return _share(name, mean, count)


def is_shared() -> bool:
    """Whether the objective has scaled its loss by `share_of_step` (or there is nothing to scale)."""
    return _current is None or _current.shared


def _share(name: str, mean: Tensor, count: Tensor) -> Tensor:
    if _current is None:
        return mean
    return mean * count.to(mean.dtype) / over_step(name, count).clamp(min=1).to(mean.dtype)


def scored(targets: Tensor) -> Tensor:
    """Number of scored targets."""
    return (targets != IGNORED).sum()


@dataclass(frozen=True)
class AuxLosses:
    """The auxiliary losses that layers add during a forward pass in training.

    counted: (B, T) False for padding and for tokens that no scored target depends on; statistics skip them.
    values: (weight, value) of each layer, by the name of the term.
    scored: number of scored targets; None if unknown.
    """

    counted: Tensor
    values: dict[str, list[tuple[float, Tensor]]] = field(default_factory=dict)
    scored: Tensor | None = None

    @classmethod
    def before(cls, batch: Batch | Tensor) -> AuxLosses:
        """For a batch, or for targets (B, T) without padding and documents: real tokens are counted up to the last
        scored target of their document."""
        if isinstance(batch, Tensor):
            batch = Batch(batch, batch)
        targets, documents = batch.scored_targets, batch.document_ids
        is_scored = targets != IGNORED
        counted = is_scored.flip(1).cummax(1).values.flip(1)
        if documents is not None:
            starts = documents != documents.roll(1, 1)
            starts[:, 0] = False
            number = starts.cumsum(1)  # document ids may be any numbers, in this order or another
            later = torch.arange(targets.shape[1], device=targets.device)
            last = torch.full_like(number, -1).scatter_reduce(1, number, torch.where(is_scored, later, -1), "amax")
            counted = later <= last.gather(1, number)
        if batch.padding_mask is not None:
            counted = counted & batch.padding_mask
        return cls(counted, scored=scored(targets))

    def counting(self, batch: Batch) -> AuxLosses:
        """The same collection for layers that are trained on other targets, those of this batch."""
        return replace(self, counted=AuxLosses.before(batch).counted)

    def add(self, name: str, value: Tensor, weight: float, count: Tensor | None = None) -> None:
        """Add `weight` · `value` to the training loss and report `value` under `name`.

        `value` is a mean over `count` elements of this batch, by default its counted tokens.
        """
        count = self.counted.sum() if count is None else count
        self.values.setdefault(name, []).append((weight, _share(name, value, count)))
