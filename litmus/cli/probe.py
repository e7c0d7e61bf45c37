"""`litmus probe`: try architectures on synthetic tasks that each need one ability."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from litmus.catalog import check_size, check_source
from litmus.cli.options import Option, Override, RunsFolder, TrustPlugin, overrides
from litmus.cli.output import log, notes
from litmus.comparison import DEFAULT_SEEDS, PROBE_TRAINING
from litmus.errors import BadInput
from litmus.probes import PROBES, probe_named
from litmus.process import defer_output_errors
from litmus.training.settings import settings_from

ALL = "all"


@defer_output_errors()
def probe(
    name: Annotated[
        str,
        typer.Argument(
            help="A probe, with options as in mqar:length=64,pairs=8; several with a + between; or all. "
            f"Probes: {', '.join(PROBES)}."
        ),
    ],
    arms: Annotated[
        list[str] | None, typer.Argument(help="Recipes, .yaml files or plug-in .py files, the baseline first.")
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Trials per arm, at least 2; 3..12 adds seeds until every arm is decided.")
    ] = str(DEFAULT_SEEDS),
    budget: Annotated[str, typer.Option(help="Training of a trial: steps, tokens, seconds or FLOPs.")] = (
        PROBE_TRAINING.budget
    ),
    lr: Annotated[float, typer.Option(help="The middle one of the learning rates that are tried.")] = PROBE_TRAINING.lr,
    lr_sweep: Annotated[
        bool, typer.Option("--lr-sweep/--no-lr-sweep", help="Take the best of three learning rates per arm.")
    ] = True,
    size: Annotated[
        str | None,
        typer.Option(
            help="A row of the size table, or own for the size in the recipe. Default: dim 64, depth 2, heads 2."
        ),
    ] = None,
    change: Override = None,
    option: Option = None,
    jobs: Annotated[
        int | None, typer.Option(help="Trials that run at the same time. Default: one per CPU core.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to train; by default CUDA when there is one.")] = None,
    folder: Annotated[
        str | None, typer.Option("--name", help="Folder name in the folder of runs; the probe's is added to it.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where to write the page with the heatmap. Default: probes.html in the runs.")
    ] = None,
    runs: RunsFolder = "runs",
    trust_plugin: TrustPlugin = False,
    json: Annotated[bool, typer.Option("--json", help="Print only JSON: accuracies, verdicts, costs, paths.")] = False,
) -> None:
    """Train architectures on synthetic tasks, and say with error bars which can do what.

    Examples are generated from a seed; only the answers are trained on and scored. Each arm gets the best of three
    learning rates. The same command continues an interrupted one; finished trials are not repeated.

    Examples:

      litmus probe mqar standard window

      litmus probe kth_token nope one_layer.yaml --size own

      litmus probe mqar:length=64,pairs=8+copying standard window worker --json
    """
    names = list(PROBES) if name == ALL else name.split("+")
    for each in names:
        probe_named(each)
    if not arms:
        raise BadInput("no arm was given; name one recipe or more, such as: litmus probe mqar standard window")
    for arm in arms:
        check_source(arm)
    check_size(size)
    given = {"budget": budget, "lr": lr, "device": device}
    changes = {key: value for key, value in given.items() if value is not None} | overrides(option, "--option")
    training = settings_from({**PROBE_TRAINING.model_dump(exclude_unset=True), **changes})
    if training.context is not None:
        raise BadInput(
            f"context is {training.context}; the length of a probe's examples is an option of its own: "
            f"{names[0].partition(':')[0]}:length={training.context}"
        )
    log(f"probing {', '.join(arms)} by {', '.join(names)}: loading PyTorch")

    from litmus.comparison.probing import probe as run_probes

    result = run_probes(
        names,
        arms,
        training=training,
        size=size,
        overrides=overrides(change),
        lr_sweep=lr_sweep,
        seeds=seeds,
        jobs=jobs,
        name=folder,
        runs=runs,
        trust_plugin=trust_plugin,
        command=shlex.join(["litmus", *sys.argv[1:]]),
        console=notes(),
    )
    page = result.save_report(report or Path(runs) / "probes.html")
    if json:
        print(result.to_json())
    else:
        result.print()
        print(f"\nreport: {page}")
    if any(comparison.result.arm_notes for comparison in result.comparisons.values()):
        raise typer.Exit(1)
