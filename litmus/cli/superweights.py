"""`litmus superweights`: find the single weights that a model cannot do without."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.catalog import check_run
from litmus.cli.compression_options import AsJson, Data
from litmus.cli.options import Best, TrustPlugin
from litmus.cli.output import log, print_table
from litmus.files import check_replaceable, real_path


def superweights(
    model: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard, or a Hugging Face folder.")],
    data: Data = None,
    blocks: Annotated[int, typer.Option(min=2, max=4096, help="Blocks of held-out text, the prompts.")] = 16,
    length: Annotated[int, typer.Option(min=2, max=1 << 20, help="Tokens in a block.")] = 128,
    controls: Annotated[int, typer.Option(min=1, max=1000, help="Control weights of each of the four kinds.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a report with figures; more ablations are made for them.")
    ] = None,
    track: Annotated[bool, typer.Option("--track", help="Search every checkpoint that the run keeps.")] = False,
    best: Best = False,
    trust_plugin: TrustPlugin = False,
    json: AsJson = False,
) -> None:
    """Find super weights: single weights without which the loss rises as without no other weight.

    A candidate is where a down-projection's largest input and output activations meet. It is a super weight if zeroing
    it costs at least 0.01 nats per token and ten times what zeroing any control costs: weights of about its size in the
    same matrix, row and column, and random ones.

    Examples:

      litmus superweights runs/standard

      litmus superweights downloads/smollm2 --data stdlib --out smollm2-superweights
    """
    check_run(model, "model")
    from litmus.compression.source import load_source, text_blocks, text_of
    from litmus.compression.study import KIND, candidates_table, checkpoints_table, save, search_document, study
    from litmus.compression.superweights import find_super_weights
    from litmus.compression.tracking import track_checkpoints

    if out is not None:
        check_replaceable(real_path(out), KIND, str(out))
    source = load_source(model, best=best, trust_plugin=trust_plugin, log=log)
    batch = text_blocks(source, text_of(source, data, log), blocks=blocks, length=length)
    if track:
        steps = track_checkpoints(source, batch, controls=controls, trust_plugin=trust_plugin, log=log)
    else:
        steps = {source.step: find_super_weights(source.model, batch, controls=controls)}
    search = steps[source.step]
    if out is not None:
        measured = study(source.model, batch, source.tokenizer, search)
        save(out, real_path(model).name, search, measured, steps if track else None)
    if json:
        documents: list[dict[str, Any]] = [{"step": step, **search_document(one)} for step, one in steps.items()]
        print(json_format.dumps({"model": str(model), "checkpoints": documents}, indent=1))
        return
    print(search.verdict)
    if search.candidates:
        print_table(candidates_table(search))
    if track:
        print_table(checkpoints_table(steps))
    if out is not None:
        print(f"report: {out / 'report.md'}")
