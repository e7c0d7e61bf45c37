"""What every check is: what it asserts, a tolerance with its reason, and a function that gathers evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from litmus.audit.target import AuditTarget

ROUNDING = 1e-9
"""How far two fp64 results may lie apart that are equal by definition, in standard deviations of the logits.

Different orders of summation differ by about 1e-15 per operation and reach 1e-13 through tens of layers; a fault worth
the name moves logits by 1e-6 and more. 1e-9 lies between the two with room on both sides.
"""


@dataclass(frozen=True)
class Evidence:
    """One thing that a check looked at: `what` it saw, as a phrase, and the figure against its tolerance.

    `mark` and `meaning` say of a fault what the check's own words do not. A `warning` is no fault, but to be known.
    """

    what: str
    fault: bool = False
    warning: bool = False
    measured: float | None = None
    tolerance: float | None = None
    where: str = ""
    mark: str = ""
    meaning: str = ""


class NotApplicable(Exception):
    """Raised by a check that has nothing to say about this subject; the message is the reason."""


@dataclass(frozen=True)
class Check:
    """`asserts` in one sentence, `how`, `tolerance` with its reason; `means` and `mark` say what a fault amounts to."""

    name: str
    asserts: str
    how: str
    tolerance: str
    means: str
    mark: str
    gather: Callable[[AuditTarget], Iterator[Evidence]]


def apart(actual: Tensor, expected: Tensor) -> float:
    """The largest difference between two tensors of logits (..., V), in standard deviations of `expected`."""
    return float(differences(actual, expected).max()) if actual.numel() else 0.0


def differences(actual: Tensor, expected: Tensor) -> Tensor:
    """The largest difference at each position of logits (..., V), in standard deviations of `expected`; inf for NaN."""
    difference = (actual.double() - expected.double()).abs().amax(-1) / spread(expected)
    return torch.where(difference.isnan(), torch.inf, difference)


def spread(logits: Tensor) -> Tensor:
    """The standard deviation of logits over the vocabulary, averaged over all positions."""
    return logits.double().std(-1).mean().clamp(min=torch.finfo(torch.float32).tiny)


def counted(number: int, thing: str) -> str:
    """ "1 length", "12 lengths"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
