"""`litmus import`: make a run from a Hugging Face model folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from litmus.cli.options import Option, overrides, setting
from litmus.training.settings import settings_from


def import_run(
    folder: Annotated[Path, typer.Argument(help="A folder with config.json and safetensors weights.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the folder in runs/; the model folder's when not given.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A corpus to train on; see: litmus data list.")] = None,
    budget: Annotated[str | None, setting("budget")] = None,
    lr: Annotated[float | None, setting("lr")] = None,
    option: Option = None,
    bytes: Annotated[bool, typer.Option("--bytes", help="Take one token per byte, not the model's tokenizer.")] = False,
) -> None:
    """Make a run from a Llama, Qwen3, GPT-2 or DeepSeek folder (safetensors only).

    Every run can be generated from, and scored with: litmus eval RUN --data CORPUS. With --data it is also a training
    that stands at step 0; the command that takes it up is printed.

    Examples:

      litmus import downloads/gpt2

      litmus import exported/standard --name tuned --data shakespeare --budget '200 steps' --lr 0.0003
    """
    given = {key: value for key, value in {"budget": budget, "lr": lr}.items() if value is not None}
    settings = settings_from({**given, **overrides(option)})

    from litmus.interop import import_run as make_run

    run = Path("runs") / (name or folder.resolve().name)

    def announce(text: str) -> None:
        print(text, file=sys.stderr)

    made = make_run(folder, run, corpus=data, settings=settings, use_bytes=bytes, announce=announce)
    if data is None:
        print(f"{run}; try: litmus generate {run}, litmus eval {run} --data shakespeare")
        return
    options = "".join(f" --option {pair}" for pair in option or [])
    options = "".join(f" --{key} {value!r}" for key, value in given.items()) + options
    print(f"litmus train {run}/recipe.yaml --folder {run} --data {data} --tokenizer {made.data.tokenizer}{options}")
