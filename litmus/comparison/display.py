"""The progress display of a comparison: bars on a terminal, elsewhere occasional lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from litmus.comparison.trial import TrialSpec

SECONDS_BETWEEN_LINES = 20.0
"""Minimum time between two plain lines about one trial."""


class ProgressDisplay:
    """Shows the progress of trials; `on_event` may be called from several threads."""

    def __init__(self, console: Console, title: str, specs: Sequence[TrialSpec]) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._live = console.is_terminal
        self._fractions: dict[str, float] = dict.fromkeys((spec.subfolder for spec in specs), 0.0)
        self._line_times: dict[str, float] = {}
        self._notes: set[str] = set()
        self._tasks: dict[str, TaskID] = {}
        self._done = 0
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, disable=not self._live,
        )  # fmt: skip
        self._all = self._bars.add_task(
            f"[bold]{escape(title)}", total=max(1, len(specs)), note=f"0/{len(specs)} trials"
        )

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_event(self, spec: TrialSpec, event: dict[str, Any]) -> None:
        """Show an event of a trial, as run_trials reports them."""
        with self._lock:
            if "note" in event:
                self._note(spec, str(event["note"]))
            if "fraction" in event:
                self._advance(spec, float(event["fraction"]), float(event["loss"]))
            if event.get("done"):
                self._finish(spec)
            if event.get("left_out"):
                del self._fractions[spec.subfolder]
                self._bars.update(self._all, total=max(1, len(self._fractions)), note=self._count)

    def _advance(self, spec: TrialSpec, fraction: float, loss: float) -> None:
        self._fractions[spec.subfolder] = fraction
        if self._live:
            if spec.subfolder not in self._tasks:
                self._tasks[spec.subfolder] = self._bars.add_task(escape(trial_label(spec)), total=1.0, note="")
            self._bars.update(self._tasks[spec.subfolder], completed=fraction, note=f"loss {loss:.3f}")
            self._bars.update(self._all, completed=sum(self._fractions.values()))
        elif time.monotonic() - self._line_times.get(spec.subfolder, 0.0) > SECONDS_BETWEEN_LINES:
            self._line_times[spec.subfolder] = time.monotonic()
            self._line(f"{trial_label(spec)}: {fraction:.0%}, loss {loss:.3f}")

    def _finish(self, spec: TrialSpec) -> None:
        self._fractions[spec.subfolder] = 1.0
        self._done += 1
        if spec.subfolder in self._tasks:
            self._bars.remove_task(self._tasks.pop(spec.subfolder))
        self._bars.update(self._all, completed=sum(self._fractions.values()), note=self._count)
        if not self._live:
            self._line(f"{trial_label(spec)}: done ({self._count})")

    @property
    def _count(self) -> str:
        return f"{self._done}/{len(self._fractions)} trials"

    def _note(self, spec: TrialSpec, note: str) -> None:
        if note not in self._notes:  # every trial reports the same notes about the text
            self._notes.add(note)
            self._line(f"{trial_label(spec)}: {note}")

    def _line(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


def trial_label(spec: TrialSpec) -> str:
    """A short name of a trial."""
    extra = {"arm": "", "noise": ", another initialization", "sweep": f", learning rate {spec.training.lr:.3g}"}
    return f"{spec.arm}, seed {spec.seed}{extra[spec.role]}"
