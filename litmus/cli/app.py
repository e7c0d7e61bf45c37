"""The `litmus` command, which joins the commands; each has a file of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer

from litmus import __version__
from litmus.cli import (
    audit,
    bench,
    chat,
    claims,
    compare,
    data,
    eval,
    export,
    generate,
    import_,
    probe,
    prune,
    quantize,
    recipes,
    runs,
    superweights,
    train,
)
from litmus.cli.output import QUIET
from litmus.cli.parsing import Command, Group

GLOBAL_FLAGS = ("--debug", "--quiet")
"""Flags of `litmus` itself, which may also follow a command."""


app = typer.Typer(
    name="litmus",
    cls=Group,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"litmus {__version__}")
        raise typer.Exit


@app.callback()
def litmus(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Results only: no progress, no messages.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Put transformer ideas to the test: audit them, train them against a baseline, read the verdict.

    --quiet and --debug may also follow a command. Exit codes: 0 done, 1 the thing tested failed, 2 bad input,
    130 stopped by Ctrl-C, 143 by SIGTERM or SIGHUP.
    """
    QUIET.set(quiet)


app.command(cls=Command)(compare.compare)
app.command(cls=Command)(audit.audit)
app.command(cls=Command)(train.train)
app.command("eval", cls=Command)(eval.evaluate)
app.command(cls=Command)(generate.generate)
app.command(cls=Command)(chat.chat)
app.command(cls=Command)(probe.probe)
app.command(cls=Command)(superweights.superweights)
app.command(cls=Command)(prune.prune)
app.command(cls=Command)(quantize.quantize)
app.command(cls=Command)(export.export)
app.command("import", cls=Command)(import_.import_run)
app.command(cls=Command)(recipes.recipes)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(claims.app, name="claims")


@cache
def tree() -> Any:
    """The typer command with all subcommands."""
    return typer.main.get_command(app)


def run_command(arguments: Sequence[str]) -> int | None:
    """Parse `arguments` and run the command they name; BadInput for what cannot be parsed."""
    command = tree()
    if "_LITMUS_COMPLETE" in os.environ:
        command(prog_name="litmus")  # the shell asks for completions
    quiet = QUIET.set(False)
    try:
        with command.make_context("litmus", flags_first(arguments)) as context:
            returned = command.invoke(context)
        return returned if isinstance(returned, int) else None
    except typer.Exit as ending:
        return ending.exit_code
    finally:
        QUIET.reset(quiet)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """`arguments` with the global flags before a "--" moved to the front."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in GLOBAL_FLAGS]
    return [*flags, *(word for word in arguments[:end] if word not in GLOBAL_FLAGS), *arguments[end:]]
