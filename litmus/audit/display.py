"""An audit on the terminal: what is being checked while it runs, and the tables at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from litmus.audit.checks import CHECKS, FORWARD
from litmus.audit.report import STYLES, AuditReport, Finding


class Progress:
    """Shows on stderr which check of which subject is being made; a line per check where that is not a terminal."""

    def __init__(self, subject: str, checks: Sequence[str] = (), console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.subject = subject
        self.left = [FORWARD.name, *(name for name in CHECKS if name in (checks or CHECKS))]
        self.status: Status | None = self.console.status("") if self.console.is_terminal else None

    def __enter__(self) -> Callable[[Finding], None]:
        if self.status:
            self.status.start()
        self._show()
        return self.finding

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.status:
            self.status.stop()

    def finding(self, finding: Finding) -> None:
        """Note that a check is done."""
        if finding.name in self.left:
            self.left.remove(finding.name)
        if self.status is None:
            self.console.print(f"{self.subject}: {finding.name}: {finding.status}", markup=False, highlight=False)
        self._show()

    def _show(self) -> None:
        if self.status and self.left:
            self.status.update(f"audit of {self.subject}: {self.left[0]} ({len(self.left)} left)")


def tables(reports: Sequence[AuditReport]) -> list[Table]:
    """The table of each report that failed or stands alone, and one row per report when there are several."""
    shown = [report.table() for report in reports if len(reports) == 1 or not report.passed]
    if len(reports) == 1:
        return shown
    overview = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("subject", "result", "seconds", "note"):
        overview.add_column(column, justify="right" if column == "seconds" else "left")
    for report in reports:
        result = Text("passes", STYLES["pass"]) if report.passed else Text(report.mark(), STYLES["fail"])
        overview.add_row(report.subject, result, f"{report.seconds:.0f}", Text(report.note))
    return [*shown, overview]
