"""`litmus import`: make a run from a Hugging Face model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from litmus.catalog import check_run
from litmus.cli.options import RunsFolder
from litmus.cli.output import log
from litmus.process import defer_output_errors


@defer_output_errors()
def import_run(
    folder: Annotated[Path, typer.Argument(help="A folder with config.json and safetensors weights.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the run in the folder of runs. Default: the model folder's.")
    ] = None,
    runs: RunsFolder = "runs",
    bytes: Annotated[
        bool, typer.Option("--bytes", help="The model's tokens are bytes, whatever its tokenizer file says.")
    ] = False,
) -> None:
    """Make a run from a Llama, Qwen3, GPT-2 or DeepSeek folder (safetensors only).

    Such a run can be generated from, scored (litmus eval RUN --data CORPUS) and trained on (litmus train RUN).

    Examples:

      litmus import downloads/gpt2

      litmus import exported/standard --name back
    """
    check_run(folder, "model")

    from litmus.interop import import_run as make_run
    from litmus.names import check_name

    run = Path(runs) / check_name(folder.resolve().name if name is None else name, "a run's name")

    make_run(folder, run, use_bytes=bytes, log=log)
    print(f"{run}; try: litmus generate {run}, or litmus train {run} --data shakespeare --lr 0.0003")
