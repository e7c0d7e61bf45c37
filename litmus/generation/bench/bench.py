"""The whole decode benchmark: from the name of a recipe or run to measured cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from litmus.bounds import MAX_INT
from litmus.catalog import is_recipe
from litmus.errors import BadInput, shown
from litmus.files import write_atomically
from litmus.generation.bench.measure import Cell, measure, quartiles, random_prompts, self_generated_prompts
from litmus.generation.bench.strategies import decode_strategies
from litmus.generation.engine import check_cache_memory
from litmus.model import Recipe, build, resolve
from litmus.model.costs import meta_model
from litmus.model.plugins import plugin_faults
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions
from litmus.training.run.loading import load

PROMPT_LENGTHS = (32, 128, 512)

TYPICAL_STRATEGIES = 6
MAX_FLOPS = {"cpu": 1e14, "cuda": 1e18}
"""FLOPs that a benchmark may take: an hour on a small machine of that kind."""


@dataclass
class BenchResult:
    """The measured cells, notes on how to read them, and the settings and machine that they were measured with."""

    title: str
    cells: list[Cell]
    notes: list[str]
    about: dict[str, Any]

    def to_json(self) -> str:
        """Everything as JSON; times are in seconds."""
        return json.dumps(
            {**self.about, "notes": self.notes, "cells": [cell_data(cell) for cell in self.cells]}, indent=1
        )

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        write_atomically(path, self.to_json() + "\n")


def bench_decode(
    name: str,
    *,
    size: str | None = None,
    overrides: dict[str, Any] | None = None,
    prompt_tokens: str | None = None,
    batch: str = "1,4",
    new_tokens: int = 32,
    repeats: int = 5,
    compile: bool = False,
    precision: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    trust_plugin: bool = False,
    log: Callable[[str], None] = lambda text: None,
    check: Callable[[Recipe], None] = lambda recipe: None,
) -> BenchResult:
    """Measure a recipe with random weights on random tokens, or a run on text that it generates itself.

    A recipe's context is extended to the longest text; a run's is fixed. `log` receives progress messages; `check` is
    called with the recipe before its model is first used. Failed when a plug-in's code fails.
    """
    batches = _numbers(batch, "--batch")
    lengths = _numbers(prompt_tokens, "--prompt-tokens") if prompt_tokens else list(PROMPT_LENGTHS)
    where = pick_device(device)
    usual_threads = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        if Path(name).is_dir() and not is_recipe(name):
            if size or overrides:
                raise BadInput(f"{name} is a run, whose weights fix its size and recipe; leave --size and --set out")
            model = load(name, trust_plugin=trust_plugin)
            if not prompt_tokens:
                lengths = [length for length in lengths if length + new_tokens <= model.recipe.context] or lengths[:1]
            make = self_generated_prompts
        else:
            recipe = resolve(name, size=size, overrides=overrides, trust_plugin=trust_plugin)
            recipe = recipe.model_copy(update={"context": max(max(lengths) + new_tokens, recipe.context)})
            _check_work(recipe, batches, lengths, new_tokens, repeats, where)  # before it is built
            model = build(recipe)
            make = random_prompts
        if max(lengths) + new_tokens > model.recipe.context:
            raise BadInput(
                f"a prompt of {max(lengths)} and {new_tokens} new tokens exceed the context of {model.recipe.context}; "
                f"ask for less, or for a recipe in place of the run"
            )
        check(model.recipe)
        _check_work(model.recipe, batches, lengths, new_tokens, repeats, where)
        model = model.to(where).eval()
        log("generating prompts")
        with plugin_faults(model.recipe, "decoding"):
            prompts = [make(model, rows, length) for rows in batches for length in lengths]
            strategies = decode_strategies(model, precision=precision, compile=compile)
            cells = measure(strategies, prompts, new_tokens=new_tokens, repeats=repeats, log=log)
        about = {"model": name, "recipe": model.recipe.to_dict(), "new_tokens": new_tokens, "repeats": repeats}
        machine = {"hardware": hardware(where), "versions": versions(), "threads": torch.get_num_threads()}
    finally:
        torch.set_num_threads(usual_threads)
    notes = [
        f"{strategy.name}: {strategy.stats}"
        + (" (untrained: its drafts are guesses)" if make is random_prompts else "")
        for strategy in strategies
        if strategy.stats.passes
    ]
    parameters = model.parameter_counts()["total"]
    title = (
        f"{name}, {parameters / 1e6:.2f}M parameters, {new_tokens} new tokens, {where}, threads: {machine['threads']}"
    )
    return BenchResult(title, cells, notes, {**about, **machine})


def _numbers(text: str, option: str) -> list[int]:
    """ "32,128" as [32, 128]."""
    parts = text.split(",")
    digits = [part.strip() for part in parts]
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 and 1 <= int(part) <= MAX_INT for part in digits):
        raise BadInput(
            f"{option} {shown(text)} is not a list of whole numbers from 1 to {MAX_INT:,}, e.g. {option} 32,128"
        )
    return sorted({int(part) for part in digits})


def cell_data(cell: Cell) -> dict[str, Any]:
    """A cell in seconds and bytes, for JSON."""

    def spread(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(("median", "low", "high"), quartiles(values), strict=True))

    return {
        "strategy": cell.strategy,
        "prompt_tokens": cell.prompt,
        "batch": cell.batch,
        "cache_bytes": cell.cache_bytes,
        "first_token": spread(cell.first),
        "per_token": spread(cell.per_token),
        "total": spread(cell.total),
        "tokens_per_second": spread(cell.tokens_per_second),
        "by_position": cell.by_position,
        "runs": cell.runs,
    }


def _check_work(
    recipe: Recipe, batches: list[int], lengths: list[int], new_tokens: int, repeats: int, device: torch.device
) -> None:
    """BadInput, before anything is allocated, for what exceeds the memory or `MAX_FLOPS`."""
    model = meta_model(recipe)
    check_cache_memory(model, max(batches), max(lengths) + new_tokens, device)
    weights = 2 * model.parameter_counts()["active"]
    attention = 2 * recipe.dim * recipe.depth  # per token and token before it; half of them are before it
    tokens = max(lengths) + new_tokens
    once = max(batches) * tokens * (weights + attention * tokens)
    total, most = once * repeats * TYPICAL_STRATEGIES, MAX_FLOPS[device.type]
    if total > most:
        raise BadInput(
            f"{max(batches)} x {tokens:,} tokens take about {once:.1e} FLOPs, and {repeats} times each strategy "
            f"{total:.1e}; at most {most:.0e} are spent on {device.type}: ask for less"
        )
