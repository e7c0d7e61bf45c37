"""Audits before a comparison: every arm is audited, and one that fails gets a finding instead of a score."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from litmus.auditing import AuditReport, audit_each
from litmus.comparison.report.page import Section
from litmus.comparison.trial import AUDITS
from litmus.errors import Failed
from litmus.fork_server import preload
from litmus.model import Recipe
from litmus.names import folder_safe


def audit_arms(arms: Mapping[str, Recipe], folder: Path, jobs: int, console: Console) -> dict[str, AuditReport]:
    """The quick audit of each arm, `jobs` at a time, stored in `folder`.

    That of the same recipe and plug-in is reused, also from another comparison in the same folder of runs.
    """
    subfolders = {arm: folder / AUDITS / folder_safe(arm) for arm in arms}
    reports = {}
    for arm, recipe in arms.items():
        others = sorted(folder.parent.glob(f"*/{AUDITS}/{glob.escape(folder_safe(arm))}"))
        found = (AuditReport.load(place, recipe) for place in (subfolders[arm], *others))
        if report := next((report for report in found if report is not None), None):
            report.save(subfolders[arm], recipe)
            reports[arm] = report
    missing = [arm for arm in arms if arm not in reports]
    if not missing:
        return reports
    activity = f"auditing {escape(', '.join(missing))}"
    if not console.is_terminal:
        console.print(activity, highlight=False, soft_wrap=True)
    with console.status(activity):
        for arm, report in audit_each({arm: arms[arm] for arm in missing}, jobs=jobs, quick=True):
            preload("torch._dynamo")  # optimizers of the trials need it; audits do not
            report.save(subfolders[arm], arms[arm])
            reports[arm] = report
            outcome = report.mark() or "passes its audit"
            console.print(f"{escape(arm)}: {outcome} ({report.seconds:.0f} s)", highlight=False, soft_wrap=True)
    return {arm: reports[arm] for arm in arms}


def failure_notes(reports: Mapping[str, AuditReport]) -> dict[str, str]:
    """For each arm that fails its audit, the finding that replaces its score."""
    return {arm: report.mark() for arm, report in reports.items() if not report.passed}


def untrainable(reports: Mapping[str, AuditReport]) -> dict[str, AuditReport]:
    """The arms whose forward pass does not work."""
    return {arm: report for arm, report in reports.items() if report.no_forward}


def require_trainable(baseline: str, reports: Mapping[str, AuditReport]) -> None:
    """Failed if the baseline or every other arm cannot be trained at all."""
    broken = {arm: report.no_forward for arm, report in untrainable(reports).items()}
    if baseline in broken or len(broken) >= max(1, len(reports) - 1):
        found = "; ".join(f"{arm!r}: {reason}" for arm, reason in broken.items())
        raise Failed(f"no arm is left to compare, as a model without a working forward pass cannot be trained: {found}")


def require_passing(baseline: str, reports: Mapping[str, AuditReport]) -> None:
    """Failed if the baseline or every other arm fails its audit."""
    failed = failure_notes(reports)
    if baseline in failed:
        raise Failed(f"the baseline {baseline!r} {failed[baseline]}; for details: litmus audit {baseline}")
    others = [arm for arm in reports if arm != baseline]
    if others and all(arm in failed for arm in others):
        found = "; ".join(f"{arm!r} {failed[arm]}" for arm in others)
        raise Failed(f"no arm is left to compare: {found}; --keep-failed trains them anyway, without a verdict")


def audit_section(reports: Mapping[str, AuditReport]) -> Section:
    """The report's section on the audits."""
    body = "".join(report.html_section() for report in reports.values())
    return Section("Audit", body, "Every arm is audited before it is trained; one that fails gets no verdict.")
