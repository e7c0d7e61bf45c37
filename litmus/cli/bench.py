"""`litmus bench`: what a model costs to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from litmus.catalog import check_size, check_source
from litmus.cli import generation_options as generation
from litmus.cli.options import Device, Override, Size, TrustPlugin, overrides
from litmus.cli.output import notes, results
from litmus.cli.parsing import Command, Group

app = typer.Typer(help="Measure what a model costs to use.", cls=Group)


@app.callback()
def bench() -> None:
    """Measure what a model costs to use."""


@app.command(cls=Command)
def decode(
    model: Annotated[str, typer.Argument(help="A recipe, a .yaml file, a plug-in .py file, or a run.")] = "standard",
    size: Size = None,
    change: Override = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(help="Prompt lengths (default 32,128,512, as far as they fit a run's context)."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, as 1,4.")] = "1,4",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated in each run.")] = 32,
    repeats: Annotated[
        int, typer.Option(min=1, max=10_000, help="Timed runs of each strategy, interleaved with the others.")
    ] = 5,
    compile: generation.Compile = False,
    precision: generation.Precision = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, help="CPU threads; torch's choice when not given.")
    ] = None,
    device: Device = "auto",
    json: Annotated[
        Path | None, typer.Option(help="Write everything measured to this file; - prints it, and nothing else.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Plot it: a .png or .svg file.")] = None,
    trust_plugin: TrustPlugin = False,
) -> None:
    """Time greedy decoding by every strategy that a model supports, after a check that all generate the same text.

    Without and with a cache, for latent attention with latents absorbed or expanded; then as `litmus generate` does,
    with weights prepared for this machine, compiled (--compile), in int8 and int4, and with the model's own MTP
    modules as a draft. Times are in milliseconds; the speed is relative to the first strategy of the group.

    Examples:

      litmus bench decode

      litmus bench decode minideepseek-small --prompt-tokens 128,1024,4096 --batch 1 --figure decode.png

      litmus bench decode runs/deepseek --compile --threads 2 --json decode.json
    """
    check_source(model)
    check_size(size)
    changes = overrides(change)

    from litmus.auditing import require_forward
    from litmus.generation.bench.bench import bench_decode
    from litmus.generation.bench.report import check_figure, draw, save_figure, table

    if figure:
        check_figure(figure)
    with notes().status("building") as status:
        result = bench_decode(
            model,
            size=size,
            overrides=changes,
            prompt_tokens=prompt_tokens,
            batch=batch,
            new_tokens=new_tokens,
            repeats=repeats,
            compile=compile,
            precision=precision,
            threads=threads,
            device=device,
            trust_plugin=trust_plugin,
            log=status.update,
            check=require_forward,
        )
    if str(json) == "-":
        print(result.to_json())
    else:
        results().print(table(result.cells, result.title))
        for note in result.notes:
            results().print(note, highlight=False)
        if json:
            result.save(json)
    if figure:
        save_figure(draw(result.cells, result.title), figure)
