"""`litmus export`: write a run in another program's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from litmus.catalog import check_run
from litmus.cli.options import Best, TokenizerOfSaved, TrustPlugin
from litmus.cli.output import log
from litmus.files import real_path
from litmus.process import defer_output_errors


@defer_output_errors()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard, or a saved model.")],
    to: Annotated[Literal["hf"], typer.Option(help="The format: hf, for Hugging Face transformers.")] = "hf",
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN-hf next to the run when not given.")] = None,
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="Bring a modelling file, for what transformers has no class for.")
    ] = False,
    drop_mtp: Annotated[
        bool, typer.Option("--drop-mtp", help="Leave out the modules of multi-token prediction.")
    ] = False,
    best: Best = False,
    tokenizer: TokenizerOfSaved = None,
    trust_plugin: TrustPlugin = False,
) -> None:
    """Write a run as a folder that Hugging Face transformers loads, with its tokenizer.

    Examples:

      litmus export runs/standard --to hf

      litmus export runs/deepseek --to hf --out exported/deepseek

      litmus export runs/ssmax-nope --to hf --remote-code
    """
    check_run(run)

    from litmus.interop import export_run

    named = run if run.name not in ("", "..") else real_path(run)  # "." has no name to add to
    folder = out or named.with_name(f"{real_path(run).name}-{to}")

    architecture = export_run(
        run,
        folder,
        remote_code=remote_code,
        drop_mtp=drop_mtp,
        best=best,
        tokenizer=tokenizer,
        trust_plugin=trust_plugin,
        log=log,
    )
    print(f"{folder}: {architecture}")
