"""`litmus train`: train one architecture into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.catalog import check_size, check_source
from litmus.cli.options import (
    Chat,
    CorpusOrOwn,
    HeldOut,
    Option,
    Override,
    RunsFolder,
    SampleBytes,
    Size,
    TokenizerOrOwn,
    TrustPlugin,
    overrides,
    setting,
)
from litmus.cli.output import progress, results
from litmus.errors import Failed
from litmus.process import defer_output_errors
from litmus.training.settings import preset_named, settings_from


@defer_output_errors()
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe, a .yaml file, a plug-in .py file, or a run to train further.")
    ] = "standard",
    size: Size = None,
    change: Override = None,
    data: CorpusOrOwn = None,
    tokenizer: TokenizerOrOwn = None,
    held_out: HeldOut = None,
    sample_bytes: SampleBytes = None,
    chat: Chat = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run in the folder of runs. Default: the recipe's.")
    ] = None,
    runs: RunsFolder = "runs",
    folder: Annotated[Path | None, typer.Option(help="Path of the run folder, instead of RUNS/NAME.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Settings that other options change: roleplay, roleplay-1k or roleplay-lab (docs/chat.md)."),
    ] = None,
    budget: Annotated[str | None, setting("budget")] = None,
    batch: Annotated[int | None, setting("batch")] = None,
    accumulation: Annotated[int | None, setting("accumulation")] = None,
    context: Annotated[int | None, setting("context")] = None,
    optimizer: Annotated[str | None, setting("optimizer")] = None,
    lr: Annotated[float | None, setting("lr")] = None,
    schedule: Annotated[str | None, setting("schedule")] = None,
    precision: Annotated[str | None, setting("precision")] = None,
    compile: Annotated[bool | None, setting("compile")] = None,
    seed: Annotated[int | None, setting("seed")] = None,
    sample_every: Annotated[int | None, setting("sample_every")] = None,
    device: Annotated[str | None, setting("device")] = None,
    threads: Annotated[int | None, setting("threads")] = None,
    option: Option = None,
    keep_failed: Annotated[
        bool,
        typer.Option("--keep-failed", help="Train the model even if it fails its audit; its result is not a score."),
    ] = False,
    trust_plugin: TrustPlugin = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sizes, FLOPs, memory and schedule only.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result (or the plan) as JSON, and nothing else.")
    ] = False,
) -> None:
    """Train one architecture. The same command resumes an interrupted training, and extends it if the budget is larger.

    Given a run, trained or imported, it trains the model of that run further, in a new run: with its weights, its
    tokenizer, and its corpus unless --data names another.

    Examples:

      litmus train standard --size tiny --budget 5min

      litmus train ssmax --data shakespeare --tokenizer bytes --budget '2M tokens' --lr 0.002

      litmus train super-small --data shakespeare --tokenizer gpt2 --dry-run

      litmus train runs/standard --data my_book.txt --name tuned --lr 0.0003

      litmus train roleplay --preset roleplay-lab --size tiny --data threads:chats.jsonl.gz --chat window=8
    """
    settings: dict[str, Any] = {
        "budget": budget, "batch": batch, "accumulation": accumulation, "context": context, "optimizer": optimizer,
        "lr": lr, "schedule": schedule, "precision": precision, "compile": compile, "seed": seed,
        "sample_every": sample_every, "device": device, "threads": threads,
    }  # fmt: skip
    chosen = preset_named(preset)
    given = {key: value for key, value in settings.items() if value is not None}
    settings = chosen.training_options({**given, **overrides(option, "--option")})
    settings_from(settings)  # BadInput before torch is imported
    changes = {**chosen.recipe, **overrides(change)}
    check_source(recipe)
    check_size(size)
    threads = data is not None and data.startswith("threads:")
    how = {**(chosen.chat if threads else {}), **overrides(chat, "--chat")}
    text: dict[str, Any] = {"corpus": data, "tokenizer": tokenizer, "held_out": held_out}
    text |= {"sample_bytes": sample_bytes, "chat": how or None}

    from litmus import runs as calls
    from litmus.data import data_settings_from
    from litmus.training.display import display_for, evaluation_table

    training: dict[str, Any] = {
        "recipe": recipe,
        "data": data_settings_from(text),
        "size": size,
        "overrides": changes,
        "trust_plugin": trust_plugin,
        **settings,
    }
    if dry_run:
        plan = calls.plan(**training)
        print(plan.to_json()) if json else results().print(plan.table())
        return
    run = calls.train(
        name=name, runs=runs, folder=folder, keep_failed=keep_failed, display=display_for(progress(json)), **training
    )
    print(run.result.model_dump_json(indent=1)) if json else results().print(evaluation_table(run.evaluation))
    if not json:
        print(f"report: {run.report}")
    if not run.audit.passed:
        raise Failed(f"{run.audit.subject} {run.audit.mark()}, so this is not a score; see: litmus audit {recipe}")
