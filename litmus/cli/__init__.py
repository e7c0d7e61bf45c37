"""The command line: one thin file per command; bad input becomes one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 the thing tested failed, 2 bad input (docs/commands.md has the others)."""
    try:
        from litmus import process  # imported here, where Ctrl-C is handled

        if arguments is None:
            process.begin()
        words = sys.argv[1:] if arguments is None else list(arguments)

        def command() -> int | None:
            from litmus.cli.app import run_command

            return run_command(words)

        with process.debugging("--debug" in words):
            code = process.run(command)
        if arguments is None:
            process.end(code)
    except KeyboardInterrupt:
        print("litmus: interrupted", file=sys.stderr)
        code = 130
    raise SystemExit(code)
