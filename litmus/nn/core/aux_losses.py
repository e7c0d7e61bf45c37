"""Terms that layers add to the training loss, such as the balance of a router, and the tokens they may look at.

The loss of a training step is a mean over all of its batches, each of which sees only its own tokens. Within
`micro_batch` a batch's loss is therefore its share of the step's: what a mean is divided by is that of the step, and
the losses and gradients of the batches add up to those of one large batch, however rows are divided among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from litmus.nn.core.batch import IGNORED

Sums = dict[str, Tensor]
"""What a loss sums over its tokens, such as how many are scored, by the name of the term; a second one of a name (that
of the next layer) is "name/1"."""


class MicroBatch:
    """One batch of a step: the `sums` over its own tokens, and those over all batches once they are known."""

    def __init__(self, totals: Mapping[str, Tensor] | None) -> None:
        self.totals = totals
        self.sums: Sums = {}
        self.shared = False

    def total(self, name: str, own: Tensor) -> Tensor:
        """`own`, a sum over this batch's tokens, over the tokens of the whole step."""
        earlier = sum(key.partition("/")[0] == name for key in self.sums)
        key = f"{name}/{earlier}" if earlier else name
        self.sums[key] = own.detach()
        return own if self.totals is None else self.totals[key]


_current: MicroBatch | None = None


@contextlib.contextmanager
def micro_batch(totals: Mapping[str, Tensor] | None) -> Iterator[MicroBatch]:
    """Within this block a loss is that of one batch of a step with these `totals`.

    None while they are being counted: then `sums` are what the batch adds to them.
    """
    global _current
    before, _current = _current, MicroBatch(totals)
    try:
        yield _current
    finally:
        _current = before


def total_of(batches: Iterable[Mapping[str, Tensor]]) -> Sums:
    """The sums of all batches of a step together."""
    totals: Sums = {}
    for sums in batches:
        for name, value in sums.items():
            totals[name] = totals[name] + value if name in totals else value
    return totals


def over_step(name: str, own: Tensor) -> Tensor:
    """`own`, a sum over the tokens of this batch, over those of its whole step (itself, where that is all)."""
    return own if _current is None else _current.total(name, own)


def share_of_step(name: str, mean: Tensor, count: Tensor) -> Tensor:
    """What `mean`, over `count` things of this batch, adds to the mean over those of its whole step.

    An objective that takes its terms through this says so of all of them; of one that does not, the whole loss is taken
    as a mean over the scored targets.
    """
    if _current is not None:
        _current.shared = True
    return _share(name, mean, count)


def is_shared() -> bool:
    """Whether what an objective has made of this batch is a share of the loss of a step."""
    return _current is None or _current.shared


def _share(name: str, mean: Tensor, count: Tensor) -> Tensor:
    if _current is None:
        return mean
    return mean * count.to(mean.dtype) / over_step(name, count).clamp(min=1).to(mean.dtype)


def scored(targets: Tensor) -> Tensor:
    """How many of the targets are scored."""
    return (targets != IGNORED).sum()


@dataclass(frozen=True)
class AuxLosses:
    """What layers leave for the objective while a training loss is computed.

    counted: (B, T) False where a token serves no scored target; statistics over tokens leave it out.
    values: the (weight, value) of each layer, by the name of the term.
    scored: how many targets the loss is over; None where nobody said.
    """

    counted: Tensor
    values: dict[str, list[tuple[float, Tensor]]] = field(default_factory=dict)
    scored: Tensor | None = None

    @classmethod
    def before(cls, targets: Tensor) -> AuxLosses:
        """For targets (B, T): a token counts up to the last scored target of its row; padding comes after it."""
        return cls((targets != IGNORED).flip(1).cummax(1).values.flip(1), scored=scored(targets))

    def counting(self, targets: Tensor) -> AuxLosses:
        """The same collection for layers whose vectors serve other targets (B, T)."""
        return replace(self, counted=AuxLosses.before(targets).counted)

    def add(self, name: str, value: Tensor, weight: float, count: Tensor | None = None) -> None:
        """Add `weight` · `value` to the training loss; `value` is reported under `name`.

        It is a mean over `count` things of this batch, by default its counted tokens.
        """
        count = self.counted.sum() if count is None else count
        self.values.setdefault(name, []).append((weight, _share(name, value, count)))
