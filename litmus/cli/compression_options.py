"""Options of the commands that measure or compress a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from litmus.bounds import MAX_FILE_BYTES

Data = Annotated[str | None, typer.Option(help="A corpus to measure on. Default: the run's.")]
LimitTokens = Annotated[
    int, typer.Option(min=1, max=MAX_FILE_BYTES, help="Held-out tokens that before and after are scored on.")
]
Name = Annotated[str | None, typer.Option(help="Name of the new run in the folder of runs.")]
ProtectSuper = Annotated[
    bool, typer.Option("--protect-super", help="Search for super weights first, and keep them exact.")
]
Time = Annotated[bool, typer.Option("--time", help="Measure the speed of decoding, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
