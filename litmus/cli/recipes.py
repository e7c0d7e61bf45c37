"""`litmus recipes`: the built-in architectures."""

from __future__ import annotations

from typing import Annotated

import typer

from litmus.cli.options import Override, Size, overrides


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe, a .yaml file or a plug-in .py file to print in full.")
    ] = None,
    size: Size = None,
    change: Override = None,
) -> None:
    """List the built-in architectures with their parameters, or print one as the full recipe it resolves to.

    Examples:

      litmus recipes

      litmus recipes ssmax --size small

      litmus recipes super-small --set positions.kind=rope --set context=2048
    """
    from litmus.model import recipes as names
    from litmus.model.listing import table, whole

    if name is None:
        from rich.console import Console

        Console().print(table(names(), size=size, overrides=overrides(change)))
    else:
        print(whole(name, size=size, overrides=overrides(change)).to_yaml(), end="")
