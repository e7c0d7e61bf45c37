"""All checks of one request in this process, as a stream of findings."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from pydantic import BaseModel

from litmus.audit.checks import CHECKS, FORWARD, concluded, crashed, finding_of
from litmus.audit.opening import Request, opened
from litmus.audit.report import Finding
from litmus.audit.target import AuditTarget
from litmus.errors import BadInput, Failed
from litmus.limits import TimeLimitExceeded, timeout

LIMIT = (60.0, 240.0)
"""Seconds (quick, full) that one check may take, unless the model is so slow that this would not be fair to it."""

FORWARDS = 1500
"""A check may always take as long as this many forward passes of 32 tokens."""


class Opened(BaseModel):
    """The first item of the stream: what is audited, what was changed for that, and the seconds each check has."""

    name: str
    note: str = ""
    limit: float


def run(request: Request) -> Iterator[Opened | Finding]:
    """Open the subject, then make each check; of all that can go wrong, only BadInput is raised."""
    limit = request.limit or LIMIT[not request.quick]
    try:
        with timeout(limit):
            target = opened(request)
            limit = request.limit or max(limit, time_limit(target))
    except BadInput as error:
        if error.__cause__ is None:
            raise
        # A plug-in file that does not run: its own error is a finding about it.
        yield from build_failure(request, limit, error.__cause__)
        return
    except (TimeLimitExceeded, Exception, SystemExit) as error:
        own = error.__cause__ if isinstance(error, Failed) and error.__cause__ is not None else error
        yield from build_failure(request, limit, own)
        return
    yield Opened(name=target.name, note=target.note, limit=limit)
    threads = torch.get_num_threads()
    if target.live is None:
        torch.set_num_threads(1)  # matrices this small are slower with more, much slower next to other work
    try:
        forward = finding_of(FORWARD, target, limit)
        yield forward
        for name in request.checks:
            yield finding_of(CHECKS[name], target, limit) if forward.status == "pass" else not_made(name)
    finally:
        torch.set_num_threads(threads)


def time_limit(target: AuditTarget) -> float:
    """Seconds that a check may take on this model and machine."""
    tokens = target.tokens(1, min(32, target.recipe.context))
    with torch.no_grad():
        started = time.perf_counter()
        target.model(tokens)
    return FORWARDS * (time.perf_counter() - started)


def build_failure(request: Request, limit: float, error: BaseException) -> Iterator[Opened | Finding]:
    """What is left to say when the subject cannot even be built."""
    yield Opened(name=request.name, limit=limit)
    yield concluded(FORWARD, [crashed(error, limit)])
    yield from (not_made(name) for name in request.checks)


def not_made(name: str) -> Finding:
    return Finding(name=name, status="not applicable", detail="not made, since the forward pass fails")
