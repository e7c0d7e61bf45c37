"""The list of recipes with their sizes, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from rich.table import Table

from litmus.model.decoder import Decoder
from litmus.model.recipe import Recipe
from litmus.model.resolve import Source, resolve


def table(names: Iterable[str], *, size: str | None = None, overrides: Mapping[str, Any] | None = None) -> Table:
    """One row per recipe: shape, parameters (all; without embedding and head; active), cache bytes, what it is.

    Active are those that the logits of one token use. Cache bytes are per token in bf16. Models are built on the meta
    device, so nothing is allocated.
    """
    listing = Table(box=None, header_style="bold", pad_edge=False)
    listing.add_column("recipe", no_wrap=True)
    for column in ("dim x depth x heads\nvocabulary\ncontext", "parameters\nnon-embedding\nactive", "cache\nB/token"):
        listing.add_column(column, justify="right", no_wrap=True)
    listing.add_column("what it is")
    for name in names:
        recipe = resolve(name, size=size, overrides=overrides)
        with torch.device("meta"):
            model = Decoder(recipe)
        counts = model.parameter_counts()
        listing.add_row(
            name,
            f"{recipe.dim} x {recipe.depth} x {recipe.heads}\n{recipe.vocab_size:,}\n{recipe.context:,}",
            f"{counts['total']:,}\n{counts['non_embedding']:,}\n{counts['active']:,}",
            f"{2 * model.cached_numbers(recipe.context) / recipe.context:,.0f}",
            recipe.about,
        )
    return listing


def whole(source: Source, *, size: str | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that `source` resolves to; BadInput where no model can be built from it."""
    recipe = resolve(source, size=size, overrides=overrides)
    with torch.device("meta"):
        Decoder(recipe)
    return recipe
