"""`litmus.audit`: the report on one recipe or model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from litmus.auditing.checks import CHECKS, FORWARD
from litmus.auditing.report import AuditReport, Finding
from litmus.auditing.runner import Request, TargetInfo, run
from litmus.auditing.workers import WorkerGroup, run_in_subprocesses
from litmus.errors import BadInput, Failed, nearest
from litmus.model import Recipe, Source

WAKE_SECONDS = 0.5
"""How often the main thread, which alone acts on signals, wakes while audits run in other threads."""


def audit(
    source: Source | Callable[..., Any],
    *,
    quick: bool = False,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    limit: float | None = None,
    trust_plugin: bool = False,
    vocab_size: int | None = None,
    context: int | None = None,
    jobs: int = 1,
    in_subprocess: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
) -> AuditReport:
    """Check that a model is what it claims to be, before anything is scored.

    source: a recipe's name, a path to a .yaml or .py file or to the folder of a run or a saved model, a mapping, a
    Recipe, "hf:FOLDER" (transformers), "file.py:build" (a function or class that gives an `nn.Module`), or a live
    model: a Decoder, any other `nn.Module` (copied, not modified), a function from tokens (B, T) to logits (B, T, V).
    quick: fewer cases, seconds instead of a minute. size, overrides: as for `litmus.build`. only: names of checks to
    run. limit: time limit per check in seconds. vocab_size, context: of a module or function that does not state them.
    on_finding: called with each finding as soon as it exists.

    jobs: processes that share the checks; a live model is audited in this one. in_subprocess: audit a recipe that runs
    no code from a file in a subprocess, too.

    A fault of the model is a finding; BadInput is raised when there is nothing to audit. Code from a file is audited
    in a subprocess, which may crash or hang.
    """
    request = _request(
        source,
        only,
        overrides,
        quick=quick,
        size=size,
        limit=limit,
        trust_plugin=trust_plugin,
        vocab_size=vocab_size,
        context=context,
    )
    separate = in_subprocess or request.runs_foreign_code or (jobs > 1 and not request.is_live)
    return _report(request, run_in_subprocesses(request, jobs) if separate else run(request), on_finding)


def _request(
    source: Source | Callable[..., Any],
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    **options: Any,
) -> Request:
    """The request of these checks, by default all; options: further fields of Request."""
    for name in only:
        if name not in CHECKS:
            raise BadInput(f"unknown check {name!r}; {nearest(name, CHECKS)}")
    checks = tuple(name for name in CHECKS if name in (only or CHECKS))
    return Request(source, checks, overrides=overrides or {}, **options)


def _report(
    request: Request, items: Iterator[TargetInfo | Finding], on_finding: Callable[[Finding], None] | None
) -> AuditReport:
    started = time.perf_counter()
    info, findings = TargetInfo(name=request.name, limit=0), []
    for item in items:
        if isinstance(item, TargetInfo):
            info = item
        else:
            findings.append(item)
            if on_finding:
                on_finding(item)
    findings.sort(key=lambda finding: [FORWARD.name, *CHECKS].index(finding.name))
    seconds = round(time.perf_counter() - started, 2)
    return AuditReport(subject=info.name, quick=request.quick, findings=findings, note=info.note, seconds=seconds)


def audit_each(
    sources: Mapping[str, Source],
    *,
    jobs: int,
    on_finding: Callable[[str, Finding], None] | None = None,
    group: WorkerGroup | None = None,
    **options: Any,
) -> Iterator[tuple[str, AuditReport]]:
    """The name and report of each source as its audit ends, each in subprocesses of its own, `jobs` of them at a time.

    on_finding: called with the name and each finding, in any thread. group: by which another thread can stop all.
    options: what `audit` takes, of what to check.
    """
    group = group or WorkerGroup()

    def audit_one(name: str) -> AuditReport:
        request = _request(sources[name], **options)
        items = run_in_subprocesses(request, max(1, jobs // len(sources)), group)
        return _report(request, items, partial(on_finding, name) if on_finding else None)

    with ThreadPoolExecutor(max(1, min(jobs, len(sources)))) as pool:
        running = {pool.submit(audit_one, name): name for name in sources}
        pending = set(running)
        try:
            while pending:
                done, pending = wait(pending, timeout=WAKE_SECONDS, return_when=FIRST_COMPLETED)
                for finished in done:
                    yield running[finished], finished.result()
        except BaseException:
            group.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def require_forward(recipe: Recipe) -> None:
    """Failed if a plug-in's forward pass does not work, tried in a subprocess; other recipes are not tried.

    For commands that run a plug-in without auditing it: its code may crash, hang, exit or exhaust memory.
    """
    if recipe.plugin is None:
        return
    first, *_ = (item for item in run_in_subprocesses(Request(recipe, (), quick=True)) if isinstance(item, Finding))
    report = AuditReport(subject=recipe.name, quick=True, findings=[first])
    if report.no_forward:
        raise Failed(f"the plug-in {recipe.plugin.path} has no working forward pass: {report.no_forward}")
