"""The table of recipes and their sizes for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.table import Table

from litmus.catalog import SIZE_KEYS
from litmus.model.costs import meta_model
from litmus.model.recipe import Recipe
from litmus.model.resolve import Source, resolve


def table(names: Iterable[str], *, size: str | None = None, overrides: Mapping[str, Any] | None = None) -> Table:
    """One row per recipe: shape, parameters (all; without embedding and head; active), cache bytes; 80 columns wide."""
    listing = Table(box=None, header_style="bold", pad_edge=False)
    listing.add_column("recipe", no_wrap=True)
    for column in ("dim x depth x heads\nvocabulary\ncontext", "parameters\nnon-embedding\nactive", "cache\nB/token"):
        listing.add_column(column, justify="right", no_wrap=True)
    for row in recipe_stats(names, size=size, overrides=overrides):
        listing.add_row(
            row["name"],
            f"{row['dim']} x {row['depth']} x {row['heads']}\n{row['vocab_size']:,}\n{row['context']:,}",
            f"{row['parameters']:,}\n{row['parameters_non_embedding']:,}\n{row['parameters_active']:,}",
            f"{row['cache_bytes_per_token']:,}",
        )
    return listing


def recipe_stats(
    names: Iterable[str], *, size: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Sizes and parameter counts of each recipe, as one dict per recipe.

    Active parameters are those that the logits of one token depend on. Cache bytes are per token in bf16. Models are
    built on the meta device, without allocating memory.
    """
    for name in names:
        recipe = resolve(name, size=size, overrides=overrides)
        model = meta_model(recipe)
        counts = model.parameter_counts()
        yield {
            "name": name,
            "about": recipe.about,
            **{key: getattr(recipe, key) for key in SIZE_KEYS},
            "parameters": counts["total"],
            "parameters_non_embedding": counts["non_embedding"],
            "parameters_active": counts["active"],
            "cache_bytes_per_token": round(2 * model.kv_elements(recipe.context) / recipe.context),
        }


def resolved_recipe(
    source: Source, *, size: str | None = None, overrides: Mapping[str, Any] | None = None, trust_plugin: bool = False
) -> Recipe:
    """The recipe that `source` resolves to; BadInput or Failed if no model can be built from it."""
    recipe = resolve(source, size=size, overrides=overrides, trust_plugin=trust_plugin)
    meta_model(recipe)
    return recipe
