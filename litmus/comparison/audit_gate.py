"""Audits before a comparison: every arm is audited, and one that fails gets a finding instead of a score."""

from __future__ import annotations

import glob
import threading
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from litmus.auditing import AuditReport, audit_each
from litmus.auditing.workers import WorkerGroup
from litmus.comparison.report.page import Section
from litmus.comparison.trial import AUDITS
from litmus.errors import Failed
from litmus.fork_server import preload
from litmus.model import Recipe
from litmus.names import folder_safe


class AuditGate:
    """Lets the trials of an arm begin when its quick audit has ended well, and those of two arms have.

    The audit of the same recipe and plug-in is reused, also from another comparison in the same folder of runs.

    arms: by name, the first is the baseline. keep_failed: an arm whose forward pass works is trained whatever it fails.
    """

    def __init__(
        self, arms: Mapping[str, Recipe], folder: Path, jobs: int, console: Console, *, keep_failed: bool = False
    ) -> None:
        self._arms, self._folder, self._console, self._keep_failed = arms, folder, console, keep_failed
        self._lock, self._group = threading.Lock(), WorkerGroup()
        kept = {arm: self._kept(arm) for arm in arms}
        self._reports = {arm: report for arm, report in kept.items() if report is not None}
        self._processes = max(1, jobs // max(1, len(self.missing)))
        if self.missing:
            console.print(f"auditing {escape(', '.join(self.missing))}", highlight=False, soft_wrap=True)
        self._check()

    @property
    def missing(self) -> list[str]:
        """The arms whose audit has not ended."""
        return [arm for arm in self._arms if arm not in self._reports]

    @property
    def reports(self) -> dict[str, AuditReport]:
        """The report of each arm whose audit has ended."""
        return {arm: self._reports[arm] for arm in self._arms if arm in self._reports}

    @property
    def skipped(self) -> frozenset[str]:
        """The arms that are not trained."""
        return frozenset(untrainable(self.reports) if self._keep_failed else failure_notes(self.reports))

    def audit(self, arm: str) -> None:
        """Audit an arm; Failed if nothing is left to compare."""
        recipe = self._arms[arm]
        [(_, report)] = audit_each({arm: recipe}, jobs=self._processes, group=self._group, quick=True)
        preload("torch._dynamo")  # optimizers of the trials need it; audits do not
        report.save(self._place(arm), recipe)
        outcome = report.mark() or "passes its audit"
        self._console.print(f"{escape(arm)}: {outcome} ({report.seconds:.0f} s)", highlight=False, soft_wrap=True)
        with self._lock:
            self._reports[arm] = report
            self._check()

    @property
    def admitted(self) -> frozenset[str]:
        """The arms that may be trained: none before the baseline and another one."""
        with self._lock:
            good = frozenset(self.reports) - self.skipped
            enough = next(iter(self._arms)) in good and len(good) >= min(2, len(self._arms))
            return good if enough else frozenset()

    def stop(self) -> None:
        """End the audits that are running."""
        self._group.stop()

    def _check(self) -> None:
        """Failed if the baseline failed, or if all have ended and nothing is left to compare."""
        baseline = next(iter(self._arms))
        if not self.missing or baseline in self.skipped:
            (require_trainable if self._keep_failed else require_passing)(baseline, self.reports)

    def _place(self, arm: str) -> Path:
        return self._folder / AUDITS / folder_safe(arm)

    def _kept(self, arm: str) -> AuditReport | None:
        """The report of an earlier audit, copied here."""
        recipe, place = self._arms[arm], self._place(arm)
        others = sorted(self._folder.parent.glob(f"*/{AUDITS}/{glob.escape(folder_safe(arm))}"))
        found = (AuditReport.load(folder, recipe) for folder in (place, *others))
        report = next((report for report in found if report is not None), None)
        if report is not None:
            report.save(place, recipe)
        return report


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
