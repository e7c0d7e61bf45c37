"""`litmus train`: train one architecture into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from litmus.catalog import check_size, check_source
from litmus.cli.options import (
    CorpusOrOwn,
    HeldOut,
    Option,
    Override,
    SampleBytes,
    Size,
    TokenizerOrOwn,
    TrustPlugin,
    overrides,
    setting,
)
from litmus.cli.output import progress, results
from litmus.errors import BadInput
from litmus.names import check_name
from litmus.process import defer_output_errors
from litmus.training.settings import settings_from


@defer_output_errors()
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe, a .yaml file, a plug-in .py file, or a run to train on from.")
    ] = "standard",
    size: Size = None,
    change: Override = None,
    data: CorpusOrOwn = None,
    tokenizer: TokenizerOrOwn = None,
    held_out: HeldOut = 0.1,
    sample_bytes: SampleBytes = None,
    name: Annotated[str | None, typer.Option(help="Name of the folder in runs/; the recipe's when not given.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Run folder anywhere, in place of runs/NAME.")] = None,
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
        bool, typer.Option("--keep-failed", help="Train it even if it fails its audit; what it scores is no score.")
    ] = False,
    trust_plugin: TrustPlugin = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sizes, FLOPs, memory and schedule only.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result (or the plan) as JSON, and nothing else.")
    ] = False,
) -> None:
    """Train one architecture; the same command goes on where it was stopped, and with a larger budget beyond its end.

    Given a run, trained or imported, it trains that run's model on in a new run: its weights, its tokenizer, and its
    corpus unless --data names another.

    Examples:

      litmus train standard --size tiny --budget 5min

      litmus train ssmax --data shakespeare --tokenizer bytes --budget '2M tokens' --lr 0.002

      litmus train super-small --data shakespeare --tokenizer gpt2 --dry-run

      litmus train runs/standard --data my_book.txt --name tuned --lr 0.0003
    """
    given = {
        "budget": budget, "batch": batch, "accumulation": accumulation, "context": context, "optimizer": optimizer,
        "lr": lr, "schedule": schedule, "precision": precision, "compile": compile, "seed": seed,
        "sample_every": sample_every, "device": device, "threads": threads,
    }  # fmt: skip
    if name is not None:
        check_name(name, "a run's name")
    settings = settings_from(
        {**{key: value for key, value in given.items() if value is not None}, **overrides(option, "--option")}
    )

    changes = overrides(change)
    check_source(recipe)
    check_size(size)

    from litmus.auditing import AuditReport, audit, require_forward
    from litmus.data import DataSettings
    from litmus.errors import Failed
    from litmus.generation import sample_text
    from litmus.model import Recipe, recipes, resolve
    from litmus.model.bounds import check_trained
    from litmus.runtime.device import pick_device
    from litmus.training.display import display_for, evaluation_table
    from litmus.training.plan import make_plan
    from litmus.training.run.loading import data_to_continue, load_run
    from litmus.training.trainer import train_run

    console = progress(json)
    data_settings = DataSettings(
        corpus=data or "stdlib", tokenizer=tokenizer or "bpe-4096", held_out=held_out, sample_bytes=sample_bytes
    )
    start = None
    if Path(recipe).is_dir() and recipe not in recipes():
        if size or change or tokenizer:
            raise BadInput(
                f"{recipe} is a run, whose weights fix its size, recipe and tokenizer; leave those options out"
            )
        start = load_run(Path(recipe), trust_plugin=trust_plugin)
        data_settings = data_to_continue(start, data_settings if data else None)
        whole = start.model.recipe
        name = name or f"{Path(recipe).resolve().name}-tuned"
    else:
        whole = resolve(recipe, size=size, overrides=changes, trust_plugin=trust_plugin)
    if dry_run:
        require_forward(whole)
        plan = make_plan(whole, data_settings, settings, start=start)
        print(plan.to_json()) if json else results().print(plan.table())
        return
    check_trained(whole, settings.batch, settings.context)
    pick_device(settings.device)
    target = folder or Path("runs") / (name or whole.name)
    reports: list[AuditReport] = []

    def audited(resolved: Recipe, run: Path) -> None:
        """Audit what is to be trained, unless the run has its audit, and keep it before the training begins."""
        report = AuditReport.load(run, resolved)
        if report is None:
            report = audit(resolved, quick=True)
            report.save(run, resolved)
        if not report.passed and not keep_failed:
            raise Failed(
                f"{resolved.name} {report.mark()}; see: litmus audit {recipe}, or train it all the same: --keep-failed"
            )
        if report.no_forward:
            raise Failed(
                f"{resolved.name} has no working forward pass, so that nothing can be trained: {report.no_forward}"
            )
        console.print(report.mark() or "passes its audit", style="" if report.passed else "bold red")
        reports.append(report)

    result = train_run(
        whole,
        data_settings,
        settings,
        target,
        start=start,
        gate=audited,
        sample=sample_text,
        display=display_for(console),
    )
    print(result.model_dump_json(indent=1)) if json else results().print(evaluation_table(result.evaluation))
    report = reports[-1]
    if not report.passed:
        raise Failed(f"{whole.name} {report.mark()}, so this is no score; see: litmus audit {recipe}")
