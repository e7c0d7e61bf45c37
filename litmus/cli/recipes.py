"""`litmus recipes`: the built-in architectures."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from litmus import catalog
from litmus.cli.options import Override, Size, TrustPlugin, overrides
from litmus.cli.output import results


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe, a .yaml file or a plug-in .py file to print in full.")
    ] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Count parameters and cache bytes too.")] = False,
    size: Size = None,
    change: Override = None,
    trust_plugin: TrustPlugin = False,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the built-in architectures, with --sizes their parameters, or print one as the full recipe it resolves to.

    Examples:

      litmus recipes

      litmus recipes --sizes --size small

      litmus recipes super-small --set positions.kind=rope --set context=2048
    """
    changes = overrides(change)
    catalog.check_size(size)
    if name is not None:
        catalog.check_source(name)

        from litmus.model.listing import resolved_recipe

        recipe = resolved_recipe(name, size=size, overrides=changes, trust_plugin=trust_plugin)
        print(json_format.dumps(recipe.to_dict(), indent=1) if json else recipe.to_yaml().removesuffix("\n"))
    elif sizes or changes:
        from litmus.model.listing import recipe_stats, table

        if json:
            print(json_format.dumps(list(recipe_stats(catalog.recipes(), size=size, overrides=changes)), indent=1))
        else:
            results().print(table(catalog.recipes(), size=size, overrides=changes))
    else:
        _print_summaries(size, json)


def _print_summaries(size: str | None, json: bool) -> None:
    """The list from what the recipes' files state, which needs no model and so no wait."""
    summaries = {name: catalog.summary_keys(name, size) for name in catalog.recipes()}
    if json:
        rows = [
            {"name": name, "about": keys.get("about", ""), **{key: keys[key] for key in catalog.SIZE_KEYS}}
            for name, keys in summaries.items()
        ]
        print(json_format.dumps(rows, indent=1))
        return
    from rich.table import Table

    listing = Table(box=None, header_style="bold", pad_edge=False)
    listing.add_column("recipe", no_wrap=True)
    listing.add_column("dim x depth\nx heads", justify="right", no_wrap=True)
    listing.add_column("what it is")
    for name, keys in summaries.items():
        listing.add_row(name, f"{keys['dim']} x {keys['depth']} x {keys['heads']}", keys.get("about", ""))
    results().print(listing)
