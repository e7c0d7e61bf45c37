"""`litmus audit`: check that a model is what it claims to be."""

from __future__ import annotations

from typing import Annotated

import typer

from litmus.catalog import check_size, check_source, recipes
from litmus.cli.options import Override, Size, TrustPlugin, overrides
from litmus.cli.output import notes, results


def audit(
    subject: Annotated[
        list[str],
        typer.Argument(
            help="Recipes, .yaml files, plug-in .py files, or folders of runs and saved models; all: every recipe."
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases: seconds instead of a minute.")] = False,
    size: Size = None,
    change: Override = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CHECK", help="Make this check only, e.g. causality; may be repeated.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(min=1, max=1e6, help="Seconds that one check may take; more for slow models by default."),
    ] = None,
    trust_plugin: TrustPlugin = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON; a list when there are several.")
    ] = False,
) -> None:
    """Check models before anything is scored: causality, cache, coverage, costs and more. Exit code 1 on a fault.

    Examples:

      litmus audit standard --quick

      litmus audit my_idea.py

      litmus audit runs/standard --json

      litmus audit all
    """
    for given in subject:
        if given != "all":
            check_source(given)
    check_size(size)
    changes = overrides(change)

    from litmus.audit import audit as audited
    from litmus.audit.display import Progress, tables
    from litmus.errors import Failed

    reports = []
    for name in [name for given in subject for name in (recipes() if given == "all" else [given])]:
        with Progress(name, only or (), console=notes()) as watch:
            reports.append(
                audited(
                    name,
                    quick=quick,
                    size=size,
                    overrides=changes,
                    only=only or (),
                    limit=limit,
                    trust_plugin=trust_plugin,
                    watch=watch,
                )
            )
    if json:
        texts = [report.to_json() for report in reports]
        print(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    else:
        for table in tables(reports):
            results().print(table)
    failed = [f"{report.subject} {report.mark()}" for report in reports if not report.passed]
    if failed:
        raise Failed("; ".join(failed))
