"""Where commands write: results on stdout; notes and progress on stderr, unless --quiet."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def results() -> Console:
    """The console on stdout, for what a command is asked for."""
    from rich.console import Console

    return Console()


def notes() -> Console:
    """The console on stderr, for what is going on; shows nothing with --quiet."""
    from rich.console import Console

    return Console(stderr=True, quiet=QUIET.get())


def progress(json: bool) -> Console:
    """Where a training shows how far it is: on stdout, with --json on stderr, with --quiet nowhere."""
    from rich.console import Console

    return notes() if json or QUIET.get() else Console()


def log(line: str) -> None:
    """Print a message on stderr, unless --quiet."""
    notes().print(line, markup=False, highlight=False, soft_wrap=True)
