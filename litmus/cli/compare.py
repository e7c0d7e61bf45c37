"""`litmus compare`: compare architectures on equal terms."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.catalog import check_size, check_source
from litmus.cli.options import (
    Chat,
    Corpus,
    HeldOut,
    Option,
    Override,
    RunsFolder,
    SampleBytes,
    Size,
    TokenizerName,
    TrustPlugin,
    overrides,
)
from litmus.cli.output import log, notes
from litmus.comparison import DEFAULT_ARMS, DEFAULT_SEEDS, DEFAULT_SIZE, DEFAULT_TRAINING
from litmus.process import defer_output_errors
from litmus.training.settings import TrainSettings, settings_from


def _setting(name: str) -> Any:
    """The option of a training setting, with a comparison's default."""
    help = TrainSettings.model_fields[name].description
    return typer.Option(help=f"{help} Here: {getattr(DEFAULT_TRAINING, name)}.")


@defer_output_errors()
def compare(
    arms: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recipes, .yaml files or plug-in .py files, the baseline first. Default: standard ssmax ssmax-nope."
        ),
    ] = None,
    data: Corpus = "stdlib",
    tokenizer: TokenizerName = "bpe-4096",
    held_out: HeldOut = None,
    sample_bytes: SampleBytes = None,
    chat: Chat = None,
    size: Size = DEFAULT_SIZE,
    sizes: Annotated[
        str | None,
        typer.Option(help="Compare at several sizes, such as tiny,mini, and show how the difference changes."),
    ] = None,
    change: Override = None,
    seeds: Annotated[
        str,
        typer.Option(
            help="Trials per arm, paired by data order, at least 2; 3..12 adds seeds until every arm is decided."
        ),
    ] = str(DEFAULT_SEEDS),
    budget: Annotated[str | None, _setting("budget")] = None,
    lr: Annotated[float | None, _setting("lr")] = None,
    lr_sweep: Annotated[
        bool,
        typer.Option("--lr-sweep", help="Choose each arm's learning rate from three, each tried on the whole budget."),
    ] = False,
    sweep_seeds: Annotated[
        int, typer.Option(help="Seeds of each learning rate of the sweep; with several it says how noisy each rate is.")
    ] = 1,
    batch: Annotated[int | None, _setting("batch")] = None,
    context: Annotated[int | None, _setting("context")] = None,
    precision: Annotated[str | None, _setting("precision")] = None,
    option: Option = None,
    primary: Annotated[
        str,
        typer.Option(
            help="Metric of the verdicts: bpb, seconds, tokens_per_second, peak_memory, or of probes accuracy."
        ),
    ] = "bpb",
    confidence: Annotated[float, typer.Option(help="Confidence level of the intervals, above 0.5 and below 1.")] = 0.95,
    noise: Annotated[
        bool, typer.Option(help="Also train the baseline again for every seed, and judge it against itself.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Largest difference that counts as none, in the metric's unit: arms within it are equivalent."
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            help="Folder of runs: the intervals also draw on the variance of its comparisons of the same size, budget "
            "and data.",
            metavar="RUNS",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Trials that run at the same time. Default: one per CPU core (at most 8, and one per 2 GB of memory); "
            "1 on a GPU."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each trial. Default: the cores divided by the jobs.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...; by default CUDA when there is one.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Prompt of the text samples in the report.")] = "",
    name: Annotated[
        str | None,
        typer.Option(help="Folder name in the folder of runs. By default the same command finds its folder."),
    ] = None,
    runs: RunsFolder = "runs",
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Also train arms that fail their audit, without a verdict.")
    ] = False,
    trust_plugin: TrustPlugin = False,
    require_better: Annotated[
        bool, typer.Option("--require-better", help="Exit with code 1 unless every arm is better than the baseline.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print only JSON: arms, scores, verdicts, costs, paths.")
    ] = False,
) -> None:
    """Train architectures on equal terms over several seeds and say which is better, with error bars.

    Without arguments: the built-in baseline, a founding idea and learned positions at size tiny on the source of
    Python's standard library, 3 seeds, 100 steps of 8 sequences of 128 tokens at learning rate 0.001; a few minutes
    on two CPU cores.
    Scores are over 32,768 held-out tokens spread evenly; --option evaluate_tokens=null takes all. The same command
    continues an interrupted comparison; finished trials are not repeated.

    Examples:

      litmus compare

      litmus compare standard nope --data shakespeare --budget 5min --seeds 5

      litmus compare standard my_idea.py --size mini --lr-sweep --primary seconds

      litmus compare standard my_idea.py --seeds 3..12 --margin 0.01

      litmus compare standard gated --sizes tiny,mini
    """
    names = arms or list(DEFAULT_ARMS)
    for arm in names:
        check_source(arm)
    chosen = [] if sizes is None else [part.strip() for part in sizes.split(",")]
    for each in (size, *chosen):
        check_size(each)
    given = {
        "budget": budget,
        "lr": lr,
        "batch": batch,
        "context": context,
        "precision": precision,
        "threads": threads,
        "device": device,
    }
    changes = {key: value for key, value in given.items() if value is not None} | overrides(option, "--option")
    training = settings_from({**DEFAULT_TRAINING.model_dump(exclude_unset=True), **changes})
    log(f"comparing {', '.join(names)} on {data}: loading PyTorch")

    from litmus.comparison.compare import compare as run_comparison
    from litmus.data import data_settings_from

    terms: dict[str, Any] = {
        "data": data_settings_from(
            {
                "corpus": data,
                "tokenizer": tokenizer,
                "held_out": held_out,
                "sample_bytes": sample_bytes,
                "chat": overrides(chat, "--chat") or None,
            }
        ),
        "training": training,
        "overrides": overrides(change),
        "seeds": seeds,
        "lr_sweep": lr_sweep,
        "sweep_seeds": sweep_seeds,
        "noise": noise,
        "primary": primary,
        "confidence": confidence,
        "margin": margin,
        "prior": prior,
        "jobs": jobs,
        "keep_failed": keep_failed,
        "prompt": prompt,
        "name": name,
        "runs": runs,
        "trust_plugin": trust_plugin,
        "command": shlex.join(["litmus", *sys.argv[1:]]),
        "console": notes(),
    }
    if sizes is None:
        comparison = run_comparison(names, size=size, **terms)
        comparisons = [comparison]
        shown: Any = comparison
    else:
        from litmus.comparison.sizes import compare_sizes

        shown = compare_sizes(names, chosen, **terms)
        comparisons = list(shown.comparisons.values())
    if json:
        print(shown.to_json())
    else:
        shown.print()
        print()
        for comparison in comparisons:
            print(f"report: {comparison.report}")
    not_better = require_better and any(
        verdict.word != "better" for comparison in comparisons for verdict in comparison.verdicts
    )
    if not_better or any(comparison.result.arm_notes for comparison in comparisons):
        raise typer.Exit(1)
