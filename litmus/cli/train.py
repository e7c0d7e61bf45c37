"""`litmus train`: train one architecture into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.cli.options import Override, Size, overrides
from litmus.training.settings import TrainSettings, settings_from


def about(option: str) -> Any:
    """The typer option whose help is what the setting's declaration says."""
    return typer.Option(help=TrainSettings.model_fields[option].description)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe, a .yaml file or a plug-in .py file.")] = "standard",
    size: Size = None,
    change: Override = None,
    data: Annotated[str, typer.Option(help="A corpus: stdlib, shakespeare, sotu, a file, a folder, hf:...")] = "stdlib",
    tokenizer: Annotated[str, typer.Option(help="bytes, bpe-N or gpt2.")] = "bpe-4096",
    name: Annotated[str | None, typer.Option(help="Name of the folder in runs/; the recipe's when not given.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Run folder anywhere, in place of runs/NAME.")] = None,
    budget: Annotated[str | None, about("budget")] = None,
    batch: Annotated[int | None, about("batch")] = None,
    accumulation: Annotated[int | None, about("accumulation")] = None,
    context: Annotated[int | None, about("context")] = None,
    optimizer: Annotated[str | None, about("optimizer")] = None,
    lr: Annotated[float | None, about("lr")] = None,
    schedule: Annotated[str | None, about("schedule")] = None,
    precision: Annotated[str | None, about("precision")] = None,
    compile: Annotated[bool | None, about("compile")] = None,
    seed: Annotated[int | None, about("seed")] = None,
    sample_every: Annotated[int | None, about("sample_every")] = None,
    device: Annotated[str | None, about("device")] = None,
    threads: Annotated[int | None, about("threads")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="Another training option (docs/training.md); may be repeated."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sizes, FLOPs, memory and schedule only.")] = False,
) -> None:
    """Train one architecture; the same command goes on where it was stopped.

    Examples:

      litmus train standard --size tiny --budget 5min

      litmus train ssmax --data shakespeare --tokenizer bytes --budget '2M tokens' --lr 0.002

      litmus train super-small --data shakespeare --tokenizer gpt2 --dry-run
    """
    given = {
        "budget": budget, "batch": batch, "accumulation": accumulation, "context": context, "optimizer": optimizer,
        "lr": lr, "schedule": schedule, "precision": precision, "compile": compile, "seed": seed,
        "sample_every": sample_every, "device": device, "threads": threads,
    }  # fmt: skip
    settings = settings_from({**{key: value for key, value in given.items() if value is not None}, **overrides(option)})

    from rich.console import Console

    from litmus.data import DataSettings
    from litmus.model import resolve
    from litmus.training.evaluation_table import evaluation_table
    from litmus.training.loop import train as run_training
    from litmus.training.plan import make_plan
    from litmus.training.progress import display_for

    console = Console()
    whole = resolve(recipe, size=size, overrides=overrides(change))
    data_settings = DataSettings(corpus=data, tokenizer=tokenizer)
    if dry_run:
        console.print(make_plan(whole, data_settings, settings).table())
        return
    target = folder or Path("runs") / (name or whole.name)
    result = run_training(whole, data_settings, settings, target, sample=write_text, display=display_for(console))
    console.print(evaluation_table(result.evaluation))


def write_text(model: Any, tokenizer: Any) -> str:
    """A text from nothing, drawn with the usual temperature."""
    from litmus.generation import generate

    (text,) = generate(model, "", tokenizer=tokenizer, max_new_tokens=100)
    return text
