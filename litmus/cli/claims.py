"""`litmus claims`: the founding documents' claims, each put to a declared test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from litmus.catalog import check_run
from litmus.claims.protocol import SCALES, Scale, claim_named, claim_names
from litmus.claims.record import RESULTS, Record, read_record, record_path
from litmus.cli.options import RunsFolder
from litmus.cli.output import log, notes, print_table
from litmus.cli.parsing import Command, Group
from litmus.errors import BadInput, nearest, shown
from litmus.files import writing
from litmus.process import defer_output_errors

app = typer.Typer(help="Put the founding documents' claims to the test.", cls=Group)

ALL = "all"

Results = Annotated[str | None, typer.Option(help=f"Folder of the claims' records. Default: {RESULTS}.", metavar="DIR")]


@app.callback()
def claims() -> None:
    """Put the founding documents' claims to the test."""


@app.command("list", cls=Command)
def list_claims(
    results: Results = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the claims, and the verdict on each that was run.

    Examples:

      litmus claims list

      litmus claims list --results docs/results/claims --json
    """
    folder = existing(results)
    found = [(claim_named(name), records_of(folder, name)) for name in claim_names()]
    if json_output:
        plain = [
            {
                "number": claim.number,
                "name": claim.name,
                "title": claim.title,
                "verdicts": {record.claim.scale: record.verdict for record in records},
            }
            for claim, records in found
        ]
        print(json.dumps({"claims": plain}, indent=1))
        return
    rows = [["", "claim", "what is claimed", "verdict"]]
    for claim, records in found:
        verdicts = [f"{record.verdict}{'' if record.claim.scale == 'cpu' else ' (gpu)'}" for record in records]
        rows.append([str(claim.number), claim.name, claim.title, ", ".join(verdicts) or "not run"])
    print_table(rows)


@app.command(cls=Command)
@defer_output_errors()
def run(
    names: Annotated[list[str], typer.Argument(help="Claims, as litmus claims list names them, or all.")],
    scale: Annotated[str, typer.Option(help="cpu: two cores, minutes per claim; gpu: larger models on a GPU.")] = "cpu",
    results: Annotated[str, typer.Option(help="Folder of the claims' records.", metavar="DIR")] = RESULTS,
    runs: RunsFolder = "runs",
    jobs: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Trials that run at the same time. Default: one per CPU core.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to train; by default CUDA when there is one.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A run or Hugging Face folder for super-weight, in place of models that it trains."),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print only JSON: the records with their verdicts.")
    ] = False,
) -> None:
    """Run claims by their protocols, and say which are confirmed, refuted or inconclusive.

    A protocol states hypothesis, arms, terms, seeds and what counts as confirmed or refuted. The same command continues
    an interrupted run; trials are shared between claims, and a claim with a record of this protocol is not repeated.

    Examples:

      litmus claims run nope-depth

      litmus claims run all

      litmus claims run super-weight --model downloads/smollm2-135m
    """
    chosen = claim_names() if names == [ALL] else list(dict.fromkeys(names))
    if scale not in SCALES:
        raise BadInput(f"--scale = {shown(scale)} is not valid; {nearest(scale, get_args(Scale))}")
    for name in chosen:
        claim_named(name)
    if not results:
        raise BadInput("--results = '' is not valid; it must be the path of a folder, such as runs/claims")
    if model is not None:
        check_run(model, "model")
    log(f"running {', '.join(chosen)}: loading PyTorch")

    from litmus.claims.experiments import Lab
    from litmus.claims.running import run_claims

    folder = Path(results)
    lab = Lab(Path(runs), notes(), f"litmus claims run {' '.join(names)}", jobs, device, model)
    records, failures = run_claims(chosen, "gpu" if scale == "gpu" else "cpu", folder, lab)
    if json_output:
        print(json.dumps({"claims": [as_json(record) for record in records], "failures": failures}, indent=1))
    else:
        rows = [["", "claim", "verdict", "record"]]
        for record in records:
            path = record_path(folder, record.claim.name, record.claim.scale)
            rows.append([str(record.claim.number), record.claim.name, record.verdict, str(path)])
        print_table(rows)
    if failures:
        raise typer.Exit(1)


@app.command(cls=Command)
def report(
    results: Results = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write, in Markdown. Default: claims.md in the folder of records.")
    ] = None,
) -> None:
    """Write a page with a table of the verdicts, and for each claim its figures, a picture, terms and limits.

    The pictures are written to the folder of the records.

    Examples:

      litmus claims report

      litmus claims report --results docs/results/claims --out docs/claims.md
    """
    folder = existing(results)
    if out is not None and out.suffix != ".md":
        raise BadInput(f"--out = {shown(str(out), limit=300)} is no page in Markdown; its name must end in .md")
    page = out or folder / "claims.md"

    from litmus.claims.report import load_records, write_report

    with writing(page):
        write_report(load_records(folder), page, folder)
    print(f"report: {page}")


def as_json(record: Record) -> dict[str, Any]:
    """A record with its verdict and the word on each condition."""
    words = [{"says": one.criterion.says, "word": one.word} for one in record.conditions]
    return {"verdict": record.verdict, "conditions": words, **record.model_dump(mode="json")}


def records_of(folder: Path, name: str) -> list[Record]:
    """The records of a claim, one for each scale that it was run at."""
    found = (read_record(record_path(folder, name, scale)) for scale in SCALES)
    return [record for record in found if record is not None]


def existing(results: str | None) -> Path:
    """The folder of records; BadInput for one that was named and does not exist."""
    if results is not None and not os.path.isdir(results):
        raise BadInput(
            f"--results = {shown(results, limit=300)} is not a folder; it must be that of the claims' records"
        )
    return Path(results or RESULTS)
