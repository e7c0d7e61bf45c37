"""What keeps a recipe from being written in another format, each obstacle with the change that would remove it."""

from __future__ import annotations

from collections.abc import Iterable

from litmus.model import Recipe
from litmus.nn import Part


def need(holds: bool, found: str, change: str) -> list[str]:
    """One obstacle unless `holds`."""
    return [] if holds else [f"{found} ({change})"]


def common(recipe: Recipe, *, norm: str, positions: str) -> list[str]:
    """Obstacles that every format shares: one form of block, one norm, one kind of positions, a head without bias."""
    blocks = {parts["block"].kind for parts in recipe.layer_parts()}
    return [
        *need(blocks == {"prenorm"}, f"block is {' and '.join(sorted(blocks))!r}", "set block to prenorm"),
        *need(recipe.norm.kind == norm, f"norm is {recipe.norm.kind!r}", f"set norm to {norm}"),
        *need(
            recipe.positions.kind == positions,
            f"positions is {recipe.positions.kind!r}",
            f"set positions to {positions}",
        ),
        *need(not recipe.head.bias, "the head has a bias", "set head.bias to false"),
    ]


def uniform(recipe: Recipe) -> list[str]:
    """An obstacle where layers are not all alike."""
    layers = recipe.layer_parts()
    return need(all(parts == layers[0] for parts in layers), "layers differ from each other", "make all layers alike")


def part(found: Part, family: str, kind: str, known: Iterable[str]) -> list[str]:
    """Obstacles in one part: it is of another kind, or an option is set that the format does not know."""
    if found.kind != kind:
        return [f"{family} is {found.kind!r} (set {family} to {kind})"]
    fields = type(found).model_fields
    set_options = [
        name for name in fields if name not in ("kind", *known) and getattr(found, name) != fields[name].default
    ]
    return [f"{family}.{name} (leave it out)" for name in set_options]
