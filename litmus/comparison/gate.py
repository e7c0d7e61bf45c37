"""The gate before a comparison: every arm is audited, and one that fails gets a finding in place of a score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from litmus.audit import AuditReport, audit, keep, kept_audit
from litmus.comparison.report import Section
from litmus.comparison.trial import AUDITS
from litmus.errors import Failed
from litmus.model import Recipe
from litmus.names import folder_safe


def audited(arms: Mapping[str, Recipe], folder: Path, console: Console) -> dict[str, AuditReport]:
    """The quick audit of each arm, kept in `folder` so that a resumed comparison does not repeat it.

    What is kept is found again by what was audited, its code included, and never by the arm's name alone.
    """
    reports = {}
    for number, (arm, recipe) in enumerate(arms.items(), 1):
        place = folder / AUDITS / folder_safe(arm)
        known = kept_audit(place, recipe)
        if known is not None:
            reports[arm] = known
            continue
        doing = f"auditing {escape(arm)} ({number} of {len(arms)})"
        if not console.is_terminal:
            console.print(doing, highlight=False, soft_wrap=True)
        with console.status(doing):
            reports[arm] = audit(recipe, quick=True)
        keep(place, reports[arm], recipe)
        outcome = reports[arm].mark() or "passes its audit"
        console.print(f"{escape(arm)}: {outcome} ({reports[arm].seconds:.0f} s)", highlight=False, soft_wrap=True)
    return reports


def marks(reports: Mapping[str, AuditReport]) -> dict[str, str]:
    """What stands in place of a score, for each arm that fails its audit."""
    return {arm: report.mark() for arm, report in reports.items() if not report.passed}


def unworkable(reports: Mapping[str, AuditReport]) -> dict[str, AuditReport]:
    """The arms that cannot be trained at all."""
    return {arm: report for arm, report in reports.items() if report.no_forward}


def require_workable(baseline: str, reports: Mapping[str, AuditReport]) -> None:
    """Failed when nothing could be compared with something else, even without a verdict."""
    broken = {arm: report.no_forward for arm, report in unworkable(reports).items()}
    if baseline in broken or len(broken) >= len(reports) - 1:
        found = "; ".join(f"{arm!r}: {said}" for arm, said in broken.items())
        raise Failed(f"nothing is left to compare, as a forward pass that does not work cannot be trained: {found}")


def require_sound(baseline: str, reports: Mapping[str, AuditReport]) -> None:
    """Failed when nothing could be said: the baseline fails its audit, or every other arm does."""
    failed = marks(reports)
    if baseline in failed:
        raise Failed(f"the baseline {baseline!r} {failed[baseline]}; see it with: litmus audit {baseline}")
    others = [arm for arm in reports if arm != baseline]
    if all(arm in failed for arm in others):
        found = "; ".join(f"{arm!r} {failed[arm]}" for arm in others)
        raise Failed(f"no arm is left to compare: {found}; --keep-failed trains them all the same, without a verdict")


def audit_section(reports: Mapping[str, AuditReport]) -> Section:
    """The report's section on the audits."""
    body = "".join(report.html_section() for report in reports.values())
    return Section("Audit", body, "Every arm is audited before it is trained; one that fails gets no verdict.")
