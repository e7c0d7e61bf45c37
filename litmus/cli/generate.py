"""`litmus generate`: continue a prompt with a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from litmus.cli.options import TrustPlugin


def generate(
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard.")],
    prompt: Annotated[str, typer.Option(help="The text to continue; empty starts a new document.")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="How many continuations; the i-th draws from seed + i.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Longest continuation, in tokens.")] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token; 1 draws from the model as it is.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that make up this share.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    best: Annotated[bool, typer.Option("--best", help="Take the checkpoint with the lowest validation loss.")] = False,
    trust_plugin: TrustPlugin = False,
) -> None:
    """Continue a prompt with a trained run; the prompt itself is not printed.

    Examples:

      litmus generate runs/standard --prompt "def main("

      litmus generate runs/standard --n 3 --temperature 1 --top-p 0.95 --seed 7
    """
    from litmus.generation import generate as continue_prompts
    from litmus.training import load_run

    loaded = load_run(run, best=best, trust_plugin=trust_plugin, announce=lambda text: print(text, file=sys.stderr))
    texts = continue_prompts(
        loaded.model,
        [prompt] * n,
        tokenizer=loaded.tokenizer,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    print("\n---\n".join(texts))
