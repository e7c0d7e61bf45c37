"""Output of commands: results on stdout; messages and progress on stderr, unless --quiet."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def results() -> Console:
    """The console on stdout, for the result of a command."""
    from rich.console import Console

    return Console()


def notes() -> Console:
    """The console on stderr, for messages; silent with --quiet."""
    from rich.console import Console

    return Console(stderr=True, quiet=QUIET.get())


def progress(json: bool) -> Console:
    """The console for the progress of a training: stdout, with --json stderr; silent with --quiet."""
    from rich.console import Console

    return notes() if json or QUIET.get() else Console()


def log(line: str) -> None:
    """Print a message on stderr, unless --quiet."""
    notes().print(line, markup=False, highlight=False, soft_wrap=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows on stdout as a table, the first being its header."""
    from rich.table import Table
    from rich.text import Text

    header, *others = rows
    table = Table(box=None)
    for name in header:
        table.add_column(name)
    for row in others:
        table.add_row(*map(Text, row))
    results().print(table)
