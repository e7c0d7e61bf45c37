"""The audit of one subject: from what a user names to a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from litmus.audit.checks import CHECKS
from litmus.audit.isolation import run_apart
from litmus.audit.opening import Request
from litmus.audit.report import AuditReport, Finding
from litmus.audit.running import Opened, run
from litmus.errors import BadInput, Failed, nearest
from litmus.model import Decoder, Recipe, Source


def audit(
    source: Source | Decoder,
    *,
    quick: bool = False,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    limit: float | None = None,
    trust_plugin: bool = False,
    watch: Callable[[Finding], None] = lambda finding: None,
) -> AuditReport:
    """Check that a model is what it claims to be, before anything is scored.

    source: a recipe's name, a path to a .yaml or .py file or to the folder of a run or a saved model, a mapping, a
    Recipe, or a live model (which is copied and left as it is). quick: seconds instead of a minute, with fewer cases.
    size, overrides: as for `litmus.build`. only: names of checks to make. limit: seconds that one check may take.
    watch: called with each finding as it is made.

    A fault of the model is a finding; BadInput is raised when there is nothing to audit. What a file names is audited
    in a process of its own, which may crash or hang.
    """
    for name in only:
        if name not in CHECKS:
            raise BadInput(f"unknown check {name!r}; {nearest(name, CHECKS)}")
    checks = tuple(name for name in CHECKS if name in (only or CHECKS))
    request = Request(source, checks, quick, size, overrides or {}, limit, trust_plugin)
    started = time.perf_counter()
    opened, findings = Opened(name=request.name, limit=0), []
    for item in run_apart(request) if request.runs_foreign_code else run(request):
        if isinstance(item, Opened):
            opened = item
        else:
            findings.append(item)
            watch(item)
    seconds = round(time.perf_counter() - started, 2)
    return AuditReport(subject=opened.name, quick=quick, findings=findings, note=opened.note, seconds=seconds)


def require_forward(recipe: Recipe) -> None:
    """Failed where a plug-in's forward pass does not work, seen in a process of its own; no other recipe is looked at.

    For whatever runs a plug-in that was not audited: it may crash, hang, exit or take all memory there.
    """
    if recipe.plugin is None:
        return
    first, *_ = (item for item in run_apart(Request(recipe, (), quick=True)) if isinstance(item, Finding))
    report = AuditReport(subject=recipe.name, quick=True, findings=[first])
    if report.no_forward:
        raise Failed(f"the plug-in {recipe.plugin.path} has no working forward pass: {report.no_forward}")
