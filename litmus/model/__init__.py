"""Recipes and the models built from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from litmus.catalog import SIZES, recipes
from litmus.model.costs import cache_bytes_per_token, scored_share, training_flops_per_token
from litmus.model.decoder import Decoder
from litmus.model.plugins import MAX_PLUGIN_SECONDS, plugin_faults
from litmus.model.recipe import Recipe
from litmus.model.resolve import Source, resolve
from litmus.model.storage import load, save
from litmus.nn.objectives.objective import Loss

__all__ = [
    "SIZES",
    "Decoder",
    "Loss",
    "Recipe",
    "Source",
    "build",
    "cache_bytes_per_token",
    "load",
    "recipes",
    "resolve",
    "save",
    "scored_share",
    "training_flops_per_token",
]


def build(
    recipe: Source,
    *,
    size: str | None = None,
    vocab_size: int | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    trust_plugin: bool = False,
    **more: Any,
) -> Decoder:
    """Build a model in fp32 on the current default device; `seed` determines its initial weights.

    recipe: a name, a path to a .yaml or .py file, a mapping, or a Recipe. Overrides are a mapping or keywords, nested
    or by dotted path: build("standard", dim=64, overrides={"mixer.kv_heads": 2}). trust_plugin: run plug-in files that
    a recipe file refers to, even if the user has never named them. Errors of a plug-in raise Failed.
    """
    changes = {**(overrides or {}), **more}
    resolved = resolve(recipe, size=size, vocab_size=vocab_size, overrides=changes, trust_plugin=trust_plugin)
    with plugin_faults(resolved, "building", seconds=MAX_PLUGIN_SECONDS), torch.random.fork_rng():
        torch.manual_seed(seed)
        return Decoder(resolved)
