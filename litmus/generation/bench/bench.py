"""The whole benchmark: from the name of a recipe or run to measured cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from litmus.bounds import MAX_INT
from litmus.errors import BadInput, shown
from litmus.files import write_atomically
from litmus.generation.bench.measure import Cell, measure, own_prompts, random_prompts
from litmus.generation.bench.report import plain_data
from litmus.generation.bench.ways import ways_of
from litmus.generation.memory import check_room
from litmus.model import Recipe, build, recipes, resolve
from litmus.model.costs import meta_model
from litmus.model.plugins import plugin_faults
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions
from litmus.training.loading import load

PROMPTS = (32, 128, 512)

WAYS = 6
MOST_FLOPS = {False: 1e14, True: 1e18}
"""Work that a benchmark may take on a CPU and on a GPU: an hour, at what a small machine of its kind does."""


@dataclass
class BenchResult:
    """The cells, what they are of, and what should be read with them."""

    title: str
    cells: list[Cell]
    notes: list[str]
    about: dict[str, Any]

    def to_json(self) -> str:
        """Everything as JSON; times are in seconds."""
        return json.dumps({**self.about, "notes": self.notes, "cells": plain_data(self.cells)}, indent=1)

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
    told: Callable[[str], None] = lambda text: None,
    check: Callable[[Recipe], None] = lambda recipe: None,
) -> BenchResult:
    """Measure a recipe with random weights, on random tokens, or a run, on text that it writes itself.

    A recipe's context grows to hold what is asked for; a run's is what it is. `told` hears what is going on; `check` is
    given the recipe before its model is first used. Failed when a plug-in's code fails.
    """
    batches = _numbers(batch, "--batch")
    lengths = _numbers(prompt_tokens, "--prompt-tokens") if prompt_tokens else list(PROMPTS)
    where = pick_device(device)
    usual_threads = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        if Path(name).is_dir() and name not in recipes():
            if size or overrides:
                raise BadInput(f"{name} is a run, whose weights fix its size and recipe; leave --size and --set out")
            model = load(name, trust_plugin=trust_plugin)
            if not prompt_tokens:
                lengths = [length for length in lengths if length + new_tokens <= model.recipe.context] or lengths[:1]
            make = own_prompts
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
        told("writing prompts")
        with plugin_faults(model.recipe, "decoding"):
            prompts = [make(model, rows, length) for rows in batches for length in lengths]
            ways = ways_of(model, precision=precision, compile=compile)
            cells = measure(ways, prompts, new_tokens=new_tokens, repeats=repeats, told=told)
        about = {"model": name, "recipe": model.recipe.to_dict(), "new_tokens": new_tokens, "repeats": repeats}
        machine = {"hardware": hardware(where), "versions": versions(), "threads": torch.get_num_threads()}
    finally:
        torch.set_num_threads(usual_threads)
    notes = [
        f"{way.name}: {way.tally}" + (" (untrained: its drafts are guesses)" if make is random_prompts else "")
        for way in ways
        if way.tally.passes
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


def _check_work(
    recipe: Recipe, batches: list[int], lengths: list[int], new_tokens: int, repeats: int, device: torch.device
) -> None:
    """BadInput, before anything is allocated, for what memory does not hold or no one waits for."""
    model = meta_model(recipe)
    check_room(model, max(batches), max(lengths) + new_tokens, device)
    weights = 2 * model.parameter_counts()["active"]
    attention = 2 * recipe.dim * recipe.depth  # per token and token before it; half of them are before it
    tokens = max(lengths) + new_tokens
    once = max(batches) * tokens * (weights + attention * tokens)
    total, most = once * repeats * WAYS, MOST_FLOPS[device.type == "cuda"]
    if total > most:
        raise BadInput(
            f"{max(batches)} x {tokens:,} tokens take about {once:.1e} FLOPs, and {repeats} times each way "
            f"{total:.1e}; at most {most:.0e} are spent on {device.type}: ask for less"
        )
