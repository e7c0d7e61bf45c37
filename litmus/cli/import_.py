"""`litmus import`: make a run from a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from litmus.cli.options import RunsFolder
from litmus.cli.output import log
from litmus.files import real_path
from litmus.process import defer_output_errors


@defer_output_errors()
def import_run(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder with config.json and safetensors weights, a .gguf file, or smollm2-135m, which is fetched."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the run in the folder of runs. Default: the model's.")
    ] = None,
    runs: RunsFolder = "runs",
    bytes: Annotated[
        bool, typer.Option("--bytes", help="The model's tokens are bytes, whatever its tokenizer file says.")
    ] = False,
) -> None:
    """Make a run from a Llama, Qwen3, GPT-2 or DeepSeek folder (safetensors only), or from a Llama in a GGUF file.

    Such a run can be generated from, talked with, scored (litmus eval RUN --data CORPUS) and trained on (litmus train
    RUN). A GGUF file is dequantized.

    Examples:

      litmus import smollm2-135m

      litmus import downloads/gpt2

      litmus import exported/standard --name back
    """
    from litmus.interop import import_run as make_run
    from litmus.names import check_name

    path = real_path(model)
    own_name = path.stem if path.suffix == ".gguf" else path.name
    run = Path(runs) / check_name(own_name if name is None else name, "a run's name")

    make_run(model, run, use_bytes=bytes, log=log)
    print(f"{run}; try: litmus chat {run}, litmus generate {run}, or litmus train {run} --data shakespeare --lr 0.0003")
