"""Messages to the user: log lines, byte counts, and progress as a bar on a terminal or as lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from litmus.errors import shown

Log = Callable[[str], None]
SECONDS_BETWEEN_LINES = 10.0


def no_log(line: str) -> None:
    """A log that discards its lines."""


def printable(name: object, limit: int = 300) -> str:
    """A name for a message, without quotes: on one line, its middle cut if it is very long."""
    return shown(str(name), quoted=False, limit=limit)


def readable_bytes(count: float) -> str:
    """A byte count in powers of 1000: `12.1 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextlib.contextmanager
def progress(label: str, total: int, log: Log) -> Iterator[Callable[[int], None]]:
    """Yield `advance(bytes_done)`; shows a bar on stderr if that is a terminal, else logs a line every 10 s.

    With `no_log` nothing is shown.
    """
    if log is no_log:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
    else:
        yield _lines(label, total, log)


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _lines(label: str, total: int, log: Log) -> Callable[[int], None]:
    done = 0
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def advance(count: int) -> None:
        nonlocal done, next_line
        done += count
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            log(f"{label}: {100 * done / max(total, 1):.0f} % of {readable_bytes(total)}")

    return advance
