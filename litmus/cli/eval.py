"""`litmus eval`: score a run on held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from litmus.bounds import MAX_FILE_BYTES
from litmus.catalog import check_run
from litmus.cli.options import Best, Device, TrustPlugin
from litmus.cli.output import log, results


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard.")],
    data: Annotated[str | None, typer.Option(help="Another corpus to score on. Default: the run's.")] = None,
    limit_bytes: Annotated[
        int | None, typer.Option(min=1, max=MAX_FILE_BYTES, help="Score only the first N bytes of text.", metavar="N")
    ] = None,
    limit_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FILE_BYTES, help="Score only N tokens, in windows spread evenly.", metavar="N"),
    ] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens in a window. Default: the run's.")] = None,
    best: Best = False,
    device: Device = "auto",
    trust_plugin: TrustPlugin = False,
    json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
) -> None:
    """Score a run: bits per byte, nats per token, perplexity, loss by position, attention entropy.

    Examples:

      litmus eval runs/standard

      litmus eval runs/standard --data my_book.txt --limit-bytes 100000 --json
    """
    check_run(run)

    from rich.console import Console

    from litmus import runs
    from litmus.training.display import evaluation_table

    score = runs.evaluate(
        run,
        data=data,
        limit_bytes=limit_bytes,
        limit_tokens=limit_tokens,
        context=context,
        best=best,
        device=device,
        trust_plugin=trust_plugin,
        log=log,
    )
    report = runs.saved_audit(run)
    if report is not None and not report.passed:
        Console(stderr=True).print(f"{report.subject} {report.mark()}: the following is not a score", style="bold red")
    if json:
        print(score.model_dump_json(indent=1))
    else:
        results().print(evaluation_table(score))
