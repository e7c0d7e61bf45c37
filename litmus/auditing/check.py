"""A check: what it asserts, its tolerance and the reason for it, how its evidence becomes a finding."""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.report import Finding
from litmus.auditing.target import Ability, AuditTarget
from litmus.limits import TimeLimitExceeded, timeout
from litmus.model.renamed import explained

MAX_FAULTS_SHOWN = 3


@dataclass(frozen=True)
class Evidence:
    """One observation of a check: `what` it saw, as a phrase, and the measured value with its tolerance.

    `mark` and `meaning` replace those of the check for this fault. A `warning` does not fail the audit. `skipped`:
    nothing was observed, because the target lacks what that takes; `what` is the reason.
    """

    what: str
    fault: bool = False
    warning: bool = False
    skipped: bool = False
    measured: float | None = None
    tolerance: float | None = None
    where: str = ""
    mark: str = ""
    meaning: str = ""


class NotApplicable(Exception):
    """Raised by a check that does not apply to the target; the message is the reason."""


Gather = Callable[..., Iterator[Evidence]]
"""A check or a part of one: it takes an AuditTarget first, and observes it."""


def needs(*abilities: Ability) -> Callable[[Gather], Gather]:
    """Declare what a check, or a part of one, needs of its target; without it, the reason is the result."""

    def declare(gather: Gather) -> Gather:
        @wraps(gather)
        def gather_if_possible(target: AuditTarget, *args: Any) -> Iterator[Evidence]:
            lacking = next((ability for ability in abilities if target.lacks(ability)), None)
            if lacking:
                yield Evidence(target.lacks(lacking), skipped=True)
            else:
                yield from gather(target, *args)

        return gather_if_possible

    return declare


@dataclass(frozen=True)
class Check:
    """`asserts` in one sentence, `how`, `tolerance` with its reason; `means` and `mark` describe a fault."""

    name: str
    asserts: str
    how: str
    tolerance: str
    means: str
    mark: str
    gather: Gather
    exact: bool = False
    """Whether it compares results that are equal but for rounding: casts of the model are then lifted to fp64."""


def max_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference between two tensors of logits (..., V), in standard deviations of `expected`."""
    return float(differences(actual, expected).max()) if actual.numel() else 0.0


def differences(actual: Tensor, expected: Tensor) -> Tensor:
    """The largest difference at each position of logits (..., V), in standard deviations of `expected`; inf for NaN."""
    std = expected.double().std(-1).mean().clamp(min=torch.finfo(torch.float32).tiny)
    difference = (actual.double() - expected.double()).abs().amax(-1) / std
    return torch.where(difference.isnan(), torch.inf, difference)


def plural(number: int, noun: str) -> str:
    """ "1 length", "12 lengths"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def run_check(check: Check, target: AuditTarget, limit: float) -> Finding:
    """Run one check for at most `limit` seconds; exceptions of the audited code become findings."""
    started = time.perf_counter()
    seen: list[Evidence] = []
    reason = ""
    try:
        with timeout(limit), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with target.exact() if check.exact else contextlib.nullcontext():
                for evidence in check.gather(target):
                    seen.append(evidence)
    except NotApplicable as error:
        reason = str(error)
    except (TimeLimitExceeded, Exception, SystemExit) as error:
        seen.append(crash_evidence(error, limit))
    return to_finding(check, seen, reason, time.perf_counter() - started)


def to_finding(check: Check, seen: list[Evidence], reason: str = "", seconds: float = 0.0) -> Finding:
    """Reduce the evidence to one finding: the first fault decides, further ones are added to the detail."""
    faults = [evidence for evidence in seen if evidence.fault]
    if faults:
        first = faults[0]
        more = "" if len(faults) <= MAX_FAULTS_SHOWN else f"; and {len(faults) - MAX_FAULTS_SHOWN} more"
        return Finding(
            name=check.name,
            status="fail",
            detail="; ".join(fault.what for fault in faults[:MAX_FAULTS_SHOWN]) + more,
            measured=first.measured,
            tolerance=first.tolerance,
            where=first.where,
            meaning=first.meaning or check.means,
            mark=first.mark or check.mark,
            seconds=round(seconds, 3),
        )
    skipped = "; ".join(dict.fromkeys(evidence.what for evidence in seen if evidence.skipped))
    seen = [evidence for evidence in seen if not evidence.skipped]
    reason = reason or ("" if seen else skipped)
    if reason:
        return Finding(name=check.name, status="not applicable", detail=reason, seconds=round(seconds, 3))
    measurements = [evidence for evidence in seen if evidence.measured is not None and evidence.tolerance is not None]
    nearest = max(measurements, key=fraction_of_tolerance, default=Evidence(""))
    warning = next((evidence for evidence in seen if evidence.warning), None)
    return Finding(
        name=check.name,
        status="warning" if warning else "pass",
        detail="; ".join(evidence.what for evidence in seen) + (skipped and f" (not checked: {skipped})"),
        measured=nearest.measured,
        tolerance=nearest.tolerance,
        where=warning.where if warning else "",
        meaning=warning.meaning if warning else "",
        seconds=round(seconds, 3),
    )


def fraction_of_tolerance(evidence: Evidence) -> float:
    """The measured value relative to its tolerance; 0 where the tolerance is 0."""
    if not evidence.tolerance or evidence.measured is None:
        return 0.0
    return evidence.measured / evidence.tolerance


def crash_evidence(error: BaseException, limit: float, what: str = "it crashed") -> Evidence:
    """The exception and its line, without a traceback; TimeLimitExceeded means that `limit` seconds were not enough."""
    if isinstance(error, TimeLimitExceeded):
        return Evidence(
            f"no result within {limit:.0f} s",
            fault=True,
            where=failing_line(error),
            mark="hangs or is too slow to check",
            meaning="The check has no result; raise the limit if the model is merely large.",
        )
    said = " ".join(explained(error).split())[:300]
    return Evidence(
        f"{what}: {type(error).__name__}{f': {said}' if said else ''}",
        fault=True,
        where=failing_line(error),
        mark="crashes",
        meaning="What crashes here will crash in training, evaluation or generation.",
    )


def failing_line(error: BaseException) -> str:
    """The last line of the traceback in the user's own code, or else in Litmus outside the audit."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "<" not in Path(frame.filename).name]
    here = Path(__file__).parent
    outside = [f for f in frames if here not in Path(f.filename).parents and "site-packages" not in f.filename]
    own = [f for f in outside if here.parent not in Path(f.filename).parents]
    for frame in (own or outside)[-1:]:
        return f"{frame.name}, {Path(frame.filename).name} line {frame.lineno}"
    return ""
