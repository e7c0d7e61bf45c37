"""`litmus import`: make a run from a Hugging Face model folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def import_run(
    folder: Annotated[Path, typer.Argument(help="A folder with config.json and safetensors weights.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the folder in runs/; the folder's own if not given.")
    ] = None,
) -> None:
    """Make a run from a Llama, Qwen3, GPT-2 or DeepSeek folder (safetensors only), to evaluate, generate and train on.

    Examples:

      litmus import downloads/gpt2

      litmus import exported/deepseek --name deepseek-back
    """
    from litmus.interop import import_run as make_run

    run = Path("runs") / (name or folder.resolve().name)
    recipe = make_run(folder, run, announce=lambda text: print(text, file=sys.stderr))
    print(f"{run}: {recipe.depth} layers, {recipe.dim} wide; try: litmus generate {run}")
