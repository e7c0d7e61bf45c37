"""`litmus runs`: list, show, put side by side and remove finished runs and comparisons."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from litmus.bounds import MAX_FILE_BYTES
from litmus.cli.options import RunsFolder, TrustPlugin
from litmus.cli.output import log, results
from litmus.cli.parsing import Command, Group
from litmus.errors import BadInput, shown

if TYPE_CHECKING:
    from litmus.comparison.stored import Scored, StoredComparison, StoredRun

app = typer.Typer(help="List, show, put side by side and remove finished runs and comparisons.", cls=Group)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", cls=Command)
def list_runs(
    runs: RunsFolder = "runs",
    ledger: Annotated[
        bool, typer.Option("--ledger", help="The verdicts of all comparisons ever finished here, also of removed ones.")
    ] = False,
    json: Json = False,
) -> None:
    """List the runs and comparisons of a folder, the newest first, with their scores or verdicts.

    Examples:

      litmus runs list

      litmus runs list --ledger --json
    """
    if ledger:
        from litmus.comparison.ledger import read_ledger

        if not Path(runs).is_dir():
            raise BadInput(f"there is no folder of runs {shown(runs)}; compare something, or name it by --runs")
        lines = read_ledger(Path(runs))
        if json:
            print(json_format.dumps([line.model_dump(mode="json") for line in lines], indent=1))
        else:
            from litmus.comparison.report.listing import ledger_table

            results().print(ledger_table(lines))
        return
    from litmus.comparison.stored import entries

    found = entries(Path(runs))
    if json:
        print(json_format.dumps([{**asdict(one), "folder": str(Path(runs) / one.name)} for one in found], indent=1))
    else:
        from litmus.comparison.report.listing import entries_table

        results().print(entries_table(found))


@app.command(cls=Command)
def show(
    name: Annotated[str, typer.Argument(help="A run or comparison: its name in the folder of runs, or its path.")],
    runs: RunsFolder = "runs",
    json: Json = False,
) -> None:
    """Show a run (recipe, settings, score, costs, audit, files), or a comparison's table and verdicts again.

    Examples:

      litmus runs show standard

      litmus runs show runs/my-comparison --json
    """
    from litmus.comparison.compare import REPORT
    from litmus.comparison.report.document import document
    from litmus.comparison.report.listing import run_table
    from litmus.comparison.report.table import print_table
    from litmus.comparison.stored import StoredRun, find, read
    from litmus.training.display import evaluation_table

    stored = read(find(name, Path(runs)))
    report = stored.folder / REPORT
    if isinstance(stored, StoredRun):
        if json:
            print(json_format.dumps(_run_document(stored), indent=1))
            return
        results().print(run_table(stored))
        if stored.result is not None:
            results().print(evaluation_table(stored.result.evaluation))
    elif stored.result is None:
        raise BadInput(
            f"{stored.folder} has not finished: it holds {stored.finished} finished trials and no comparison.json; the "
            f"command that began it continues it"
        )
    elif json:
        print(json_format.dumps(document(stored.result, stored.folder, report), indent=1))
        return
    else:
        print_table(stored.result)
        print(f"\n{stored.result.context.get('command', '')}")
    if report.is_file():
        print(f"report: {report}")


@app.command(cls=Command)
def compare(
    names: Annotated[list[str], typer.Argument(help="Two or more runs, or comparisons, whose trials count as runs.")],
    runs: RunsFolder = "runs",
    data: Annotated[
        str | None, typer.Option(help="With --paired: a corpus to score on. Default: the first run's.")
    ] = None,
    limit_tokens: Annotated[
        int | None, typer.Option(min=1, max=MAX_FILE_BYTES, help="With --paired: score only N tokens.", metavar="N")
    ] = None,
    paired: Annotated[
        bool,
        typer.Option("--paired", help="Score them anew on the same windows of text; so are compressed runs always."),
    ] = False,
    trust_plugin: TrustPlugin = False,
    json: Json = False,
) -> None:
    """Put the stored scores and costs of single trainings side by side, without a verdict: one run has no error bar.

    Compressed runs have no stored score: they, and any runs with --paired, are scored on the same windows of text,
    which gives their difference an interval over texts.

    Examples:

      litmus runs compare standard ssmax

      litmus runs compare standard runs/my-comparison --json

      litmus runs compare standard standard-int4
    """
    from litmus.comparison.paired import is_paired
    from litmus.comparison.report.listing import NO_VERDICT, scores_table
    from litmus.comparison.stored import check_same_text, find, read, scored

    found = [read(find(name, Path(runs))) for name in dict.fromkeys(names)]
    if paired or data is not None or limit_tokens is not None or is_paired(found):
        _compare_paired(found, data, limit_tokens, trust_plugin, json)
        return
    trainings = [training for stored in found for training in scored(stored)]
    if len(trainings) < 2:
        raise BadInput(f"{trainings[0].name} is one training; name at least one more to compare it with")
    check_same_text(trainings)
    if json:
        print(json_format.dumps({"runs": [_score(one) for one in trainings], "note": NO_VERDICT}, indent=1))
    else:
        results().print(scores_table(trainings))
        print(f"\nall scored on the same {trainings[0].text[1]:,} bytes of held-out text. {NO_VERDICT}")


def _compare_paired(
    found: list[StoredRun | StoredComparison],
    data: str | None,
    limit_tokens: int | None,
    trust_plugin: bool,
    json: bool,
) -> None:
    from rich.table import Table

    from litmus.comparison.paired import NOTE, paired_scores

    if len(found) < 2:
        raise BadInput(f"{found[0].folder} is one run; name at least one more to compare it with")
    scores = paired_scores(found, data=data, limit_tokens=limit_tokens, trust_plugin=trust_plugin, log=log)
    windows = len(scores[0].scores.bytes)
    if json:
        document = {"runs": [one.to_dict() for one in scores], "windows": windows, "note": NOTE}
        print(json_format.dumps(document, indent=1))
        return
    table = Table(box=None)
    for column in ("run", "bits per byte", "perplexity", "difference, bits per byte"):
        table.add_column(column)
    for one in scores:
        score = f"{one.scores.bits_per_byte().mean:.4f}"
        table.add_row(one.name, score, f"{one.scores.perplexity:,.2f}", str(one.difference or "–"))
    results().print(table)
    print(f"\n{windows} windows, {int(scores[0].scores.bytes.sum()):,} bytes of held-out text. {NOTE}")


@app.command(cls=Command)
def remove(
    names: Annotated[list[str], typer.Argument(help="Runs or comparisons.")],
    runs: RunsFolder = "runs",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete runs and comparisons. Files in them that Litmus did not write stay, with their folder; so does the ledger.

    Examples:

      litmus runs remove standard-2

      litmus runs remove old-comparison standard --yes
    """
    from litmus.comparison.report.formatting import format_si
    from litmus.comparison.stored import check_removable, find, remove, size_on_disk

    found = list(dict.fromkeys(find(name, Path(runs)) for name in names))
    for folder in found:
        check_removable(folder)
    if not yes and not _agreed([f"{folder} ({format_si(size_on_disk(folder), 'B')})" for folder in found]):
        log("nothing was removed")
        if json:
            print(json_format.dumps({"removed": [], "kept": {}}, indent=1))
        return
    kept = {str(folder): remove(folder) for folder in found}
    if json:
        print(json_format.dumps({"removed": [name for name in kept if not kept[name]], "kept": kept}, indent=1))
        return
    for name, others in kept.items():
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            print(f"{name} stays, as it holds {', '.join(others[:3])}{more}, which Litmus did not write")
        else:
            print(f"removed {name}")


def _agreed(folders: list[str]) -> bool:
    """Whether the user on the terminal wants these folders deleted; BadInput if there is no terminal to ask on."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInput(f"{', '.join(folders)} would be deleted, and there is no terminal to ask on; add --yes")
    log(f"this deletes {', '.join(folders)}")
    return typer.confirm("delete?", err=True)


def _run_document(run: StoredRun) -> dict[str, Any]:
    """A run as plain data, with the keys of run.yaml and of result.json that programs need."""
    from litmus.comparison.compare import REPORT
    from litmus.comparison.report.listing import run_curve
    from litmus.comparison.stored import utc

    config, result, report = run.config.model_dump(mode="json"), run.result, run.folder / REPORT
    stored = None if result is None else json_format.loads(result.model_dump_json(exclude={"curve"}))
    return {
        "name": run.folder.name,
        "folder": str(run.folder),
        "report": str(report) if report.is_file() else None,
        "date": utc(run.config.started),
        **{key: config[key] for key in ("recipe", "data", "data_fingerprint", "training", "resolved", "command")},
        "audit": None if run.audit is None else json_format.loads(run.audit.to_json()),
        "result": stored,
        "curve": [point.model_dump(mode="json") for point in run_curve(run)],
    }


def _score(training: Scored) -> dict[str, Any]:
    """A training's score and costs as plain data; the score is None if it does not count."""
    result = training.result
    return {
        "name": training.name,
        "folder": str(training.folder),
        "bits_per_byte": None if training.mark else result.evaluation.bits_per_byte,
        "note": training.mark or None,
        "lr": training.lr,
        "seed": training.seed,
        "data_fingerprint": training.text[0],
        "scored_bytes": training.text[1],
        **result.model_dump(mode="json", exclude={"evaluation", "curve", "sample"}),
    }
