"""The command line: one thin file per command; bad input becomes one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from litmus import process


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 the thing tested failed, 2 bad input (docs/commands.md has the others)."""
    if arguments is None:
        process.begin()
    words = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> int | None:
        from litmus.cli.parsing import run_command  # here, so that Ctrl-C is answered from the first moment

        return run_command(words)

    with process.debugging("--debug" in words):
        code = process.run(command)
    if arguments is None:
        process.end(code)
    raise SystemExit(code)
