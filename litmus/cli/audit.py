"""`litmus audit`: check that a model is what it claims to be."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from litmus.catalog import check_audited, check_size, recipes
from litmus.cli.options import Override, Size, TrustPlugin, overrides
from litmus.cli.output import notes, results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

    from litmus.auditing import AuditReport, Finding


def audit(
    subject: Annotated[
        list[str],
        typer.Argument(
            help="Recipes, .yaml files, plug-in .py files, folders of runs and saved models, hf:FOLDER (transformers), "
            "file.py:build (a function or class that gives an nn.Module); all: every recipe."
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases: seconds instead of a minute.")] = False,
    size: Size = None,
    change: Override = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Make this check only, e.g. causality; may be repeated.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(min=1, max=1e6, help="Seconds that one check may take; more for slow models by default."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that audit at the same time. Default: one per CPU core.")
    ] = None,
    trust_plugin: TrustPlugin = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON; a list when there are several.")
    ] = False,
) -> None:
    """Check models before anything is scored: causality, cache, coverage, costs and more. Exit code 1 on a fault.

    Examples:

      litmus audit standard --quick

      litmus audit my_idea.py

      litmus audit model.py:build

      litmus audit hf:folder

      litmus audit runs/standard --json

      litmus audit all

      litmus audit ideas/*.py --quick --jobs 4
    """
    for given in subject:
        if given != "all":
            check_audited(given)
    check_size(size)
    changes = overrides(change)

    from litmus.fork_server import preload

    preload("litmus.auditing.workers")  # while this process imports torch for itself
    from litmus.auditing import audit_each
    from litmus.auditing.checks import CHECKS, FORWARD
    from litmus.errors import Failed
    from litmus.runtime.hardware import usable_cores

    steps = [FORWARD.name, *(name for name in CHECKS if name in (only or CHECKS))]
    names = list(dict.fromkeys(name for given in subject for name in (recipes() if given == "all" else [given])))
    if len(names) > 1:
        preload("torch._dynamo")  # counting FLOPs imports it, a second for each process
    options: dict[str, Any] = {
        "quick": quick,
        "size": size,
        "overrides": changes,
        "only": only or (),
        "limit": limit,
        "trust_plugin": trust_plugin,
    }
    with Progress(names, steps, notes()) as progress:
        at_once = jobs or usable_cores() or 1
        each = audit_each({name: name for name in names}, jobs=at_once, on_finding=progress.on_finding, **options)
        by_name = dict(each)
        reports = [by_name[name] for name in names]
    if json:
        texts = [report.to_json() for report in reports]
        print(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    else:
        for table in tables(reports):
            results().print(table)
    failed = [f"{report.subject} {report.mark()}" for report in reports if not report.passed]
    if failed:
        raise Failed("; ".join(failed))


class Progress:
    """Shows the running checks on the console, or one line per finished check if that is not a terminal."""

    def __init__(self, names: Sequence[str], checks: Sequence[str], console: Console) -> None:
        self.console = console
        self.left = {name: list(checks) for name in names}
        self.status: Status | None = self.console.status("") if self.console.is_terminal else None

    def __enter__(self) -> Progress:
        if self.status:
            self.status.start()
        self._show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.status:
            self.status.stop()

    def on_finding(self, name: str, finding: Finding) -> None:
        left = self.left[name]
        if finding.name in left:
            left.remove(finding.name)
        if self.status is None:
            self.console.print(f"{name}: {finding.name}: {finding.status}", markup=False, highlight=False)
        self._show()

    def _show(self) -> None:
        waiting = {name: left for name, left in self.left.items() if left}
        if self.status and waiting:
            name, left = next(iter(waiting.items()))
            more = f", {len(waiting) - 1} more models" if len(waiting) > 1 else ""
            self.status.update(f"audit of {escape(name)}: {left[0]} ({len(left)} left{more})")


def tables(reports: Sequence[AuditReport]) -> list[Table]:
    """The table of a single report; of several, those that failed and an overview with one row per report."""
    from rich.table import Table
    from rich.text import Text

    from litmus.auditing.report import STYLES

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
