"""All checks in order of importance, and how one check becomes one finding, whatever the audited code does."""

from __future__ import annotations

import time
import traceback
import warnings
from pathlib import Path

import torch

from litmus.audit import (
    cache,
    calibration,
    causality,
    costs,
    coverage,
    determinism,
    equivalence,
    forward,
    learning,
    positions,
    precision,
    prefix,
)
from litmus.audit.check import Check, Evidence, NotApplicable
from litmus.audit.report import Finding
from litmus.audit.target import AuditTarget
from litmus.errors import message
from litmus.limits import TimeLimitExceeded, timeout

FORWARD = forward.CHECK
CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        causality.CHECK,
        prefix.CHECK,
        cache.CHECK,
        positions.CHECK,
        coverage.CHECK,
        calibration.CHECK,
        learning.CHECK,
        costs.CHECK,
        determinism.CHECK,
        precision.CHECK,
        equivalence.CHECK,
    )
}
MOST_FAULTS = 3


def finding_of(check: Check, target: AuditTarget, limit: float) -> Finding:
    """Run one check for at most `limit` seconds; what the audited code raises becomes a finding."""
    started = time.perf_counter()
    seen: list[Evidence] = []
    reason = ""
    try:
        with timeout(limit), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for evidence in check.gather(target):
                seen.append(evidence)
    except NotApplicable as error:
        reason = str(error)
    except (TimeLimitExceeded, Exception, SystemExit) as error:
        seen.append(crashed(error, limit))
    return concluded(check, seen, reason, time.perf_counter() - started)


def concluded(check: Check, seen: list[Evidence], reason: str = "", seconds: float = 0.0) -> Finding:
    """The finding that the evidence amounts to: the first fault decides, others are mentioned."""
    faults = [evidence for evidence in seen if evidence.fault]
    if faults:
        first = faults[0]
        more = "" if len(faults) <= MOST_FAULTS else f"; and {len(faults) - MOST_FAULTS} more"
        return Finding(
            name=check.name,
            status="fail",
            detail="; ".join(fault.what for fault in faults[:MOST_FAULTS]) + more,
            measured=first.measured,
            tolerance=first.tolerance,
            where=first.where,
            meaning=first.meaning or check.means,
            mark=first.mark or check.mark,
            seconds=round(seconds, 3),
        )
    if reason:
        return Finding(name=check.name, status="not applicable", detail=reason, seconds=round(seconds, 3))
    figures = [evidence for evidence in seen if evidence.measured is not None and evidence.tolerance is not None]
    nearest = max(figures, key=closeness, default=Evidence(""))
    warning = next((evidence for evidence in seen if evidence.warning), None)
    return Finding(
        name=check.name,
        status="warning" if warning else "pass",
        detail="; ".join(evidence.what for evidence in seen),
        measured=nearest.measured,
        tolerance=nearest.tolerance,
        where=warning.where if warning else "",
        meaning=warning.meaning if warning else "",
        seconds=round(seconds, 3),
    )


def closeness(evidence: Evidence) -> float:
    """How near a figure came to its limit."""
    if not evidence.tolerance or evidence.measured is None:
        return 0.0
    return evidence.measured / evidence.tolerance


def crashed(error: BaseException, limit: float) -> Evidence:
    """What was raised and where, without a traceback; TimeLimitExceeded means that `limit` seconds were not enough."""
    place = where(error)
    if isinstance(error, TimeLimitExceeded):
        return Evidence(
            f"no result within {limit:.0f} s",
            fault=True,
            where=place,
            mark="hangs or is too slow to check",
            meaning="Nothing can be said about it; give it more time (limit) if the model is merely large.",
        )
    said = " ".join(message(error).split())[:300]
    return Evidence(
        f"it crashed: {type(error).__name__}{f': {said}' if said else ''}",
        fault=True,
        where=place,
        mark="crashes",
        meaning="What crashes here will crash in training, evaluation or generation.",
    )


def where(error: BaseException) -> str:
    """The last line that an error passed through in the user's own code, or else in Litmus outside the audit."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "<" not in Path(frame.filename).name]
    here = Path(__file__).parent
    outside = [f for f in frames if here not in Path(f.filename).parents and "site-packages" not in f.filename]
    own = [f for f in outside if here.parent not in Path(f.filename).parents]
    for frame in (own or outside)[-1:]:
        return f"{frame.name}, {Path(frame.filename).name} line {frame.lineno}"
    return ""
