"""What a person sees of a comparison: bars on a terminal, a line per trial and now and then elsewhere."""

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

LINE_SECONDS = 20.0
"""Least time between two plain lines about one trial."""


class Watch:
    """Shows how far the trials of a comparison are; `heard` is called from several threads."""

    def __init__(self, console: Console, title: str, specs: Sequence[TrialSpec]) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._live = console.is_terminal
        self._shares: dict[str, float] = dict.fromkeys((spec.place for spec in specs), 0.0)
        self._said: dict[str, float] = {}
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

    def __enter__(self) -> Watch:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def heard(self, spec: TrialSpec, figures: dict[str, Any]) -> None:
        """Take in what a trial said of itself."""
        with self._lock:
            if "note" in figures:
                self._note(spec, str(figures["note"]))
            if "share" in figures:
                self._advance(spec, float(figures["share"]), float(figures["loss"]))
            if figures.get("done"):
                self._finish(spec)

    def _advance(self, spec: TrialSpec, share: float, loss: float) -> None:
        self._shares[spec.place] = share
        if self._live:
            if spec.place not in self._tasks:
                self._tasks[spec.place] = self._bars.add_task(escape(name_of(spec)), total=1.0, note="")
            self._bars.update(self._tasks[spec.place], completed=share, note=f"loss {loss:.3f}")
            self._bars.update(self._all, completed=sum(self._shares.values()))
        elif time.monotonic() - self._said.get(spec.place, 0.0) > LINE_SECONDS:
            self._said[spec.place] = time.monotonic()
            self._line(f"{name_of(spec)}: {share:.0%}, loss {loss:.3f}")

    def _finish(self, spec: TrialSpec) -> None:
        self._shares[spec.place] = 1.0
        self._done += 1
        count = f"{self._done}/{len(self._shares)} trials"
        if spec.place in self._tasks:
            self._bars.remove_task(self._tasks.pop(spec.place))
        self._bars.update(self._all, completed=sum(self._shares.values()), note=count)
        if not self._live:
            self._line(f"{name_of(spec)}: done ({count})")

    def _note(self, spec: TrialSpec, note: str) -> None:
        if note not in self._notes:  # what is true of the text is said by every trial
            self._notes.add(note)
            self._line(f"{name_of(spec)}: {note}")

    def _line(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


def name_of(spec: TrialSpec) -> str:
    """A trial in a few words."""
    extra = {"arm": "", "noise": ", again with another init", "sweep": f", trying learning rate {spec.training.lr:.3g}"}
    return f"{spec.arm}, seed {spec.seed}{extra[spec.role]}"
