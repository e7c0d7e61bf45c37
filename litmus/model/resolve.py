"""From what a user names (recipe, YAML file, plug-in file, mapping) to a whole Recipe: bases, sizes, overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litmus.catalog import OWN_SIZE, RECIPE_FILES, SIZES, check_size, recipes, stated
from litmus.errors import BadInput, nearest
from litmus.model.plugins import import_plugin
from litmus.model.recipe import FAMILIES, Recipe, merge, validated
from litmus.yaml_json import mapping, parse_yaml

Source = str | Path | Mapping[str, Any] | Recipe


def resolve(
    source: Source,
    *,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
) -> Recipe:
    """The whole recipe: `source` over its bases, then the size, then overrides (nested or by dotted path).

    The size is a row of SIZES; "own", as None, leaves the recipe at the size it states.
    """
    raw = dict(source.to_dict()) if isinstance(source, Recipe) else _with_bases(source)
    if size not in (None, OWN_SIZE):
        raw = sized(raw, size)
    for path, value in (overrides or {}).items():
        raw = merge(raw, nested(path, value))
    if vocab_size is not None:
        raw["vocab_size"] = vocab_size
    return validated(raw)


def sized(raw: dict[str, Any], size: str) -> dict[str, Any]:
    """`raw` at a row of the size table; keys tied to the old one (hidden widths, head counts) fall back to defaults."""
    check_size(size)
    return {**_without_sized_keys(raw), **SIZES[size]}


def nested(path: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for the dotted path "a.b"."""
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


def _without_sized_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(raw)
    for name, family in FAMILIES.items():
        part = raw.get(name)
        if isinstance(part, dict):
            keys = {key for kind in family.kinds.values() for key in kind.sized}
            declared = family.kinds.get(str(part.get("kind")))
            drop = keys if declared is None else set(declared.sized)
            kept[name] = {key: value for key, value in part.items() if key not in drop}
    if isinstance(groups := raw.get("layers"), list | tuple):
        kept["layers"] = [_without_sized_keys(group) if isinstance(group, Mapping) else group for group in groups]
    return kept


def _with_bases(source: str | Path | Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    raw, here = _read(source)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if str(base) in seen:
        raise BadInput(f"recipe bases run in a circle: {' -> '.join((*seen, str(base)))}")
    beside = here / str(base) if here else None
    found = beside if beside is not None and beside.is_file() else str(base)
    return merge(_with_bases(found, (*seen, str(base))), raw)


def _read(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """The mapping that `source` stands for, with a name, and the folder its relative paths start from."""
    if isinstance(source, Mapping):
        return {"name": "unnamed", **source}, None
    path = Path(source)
    if path.suffix == ".py":
        return import_plugin(path), path.parent
    if path.suffix in RECIPE_FILES:
        if not path.is_file():
            raise BadInput(f"there is no recipe file {str(path)!r}")
        return _parse(path.read_bytes(), str(path), path.stem), path.parent
    if str(source) not in recipes():
        raise BadInput(f"unknown recipe {str(source)!r}; {nearest(str(source), recipes())}")
    return {"name": str(source), **stated(str(source))}, None


def _parse(text: bytes, origin: str, name: str) -> dict[str, Any]:
    return {"name": name, **mapping(parse_yaml(text, origin), origin, "recipe keys")}
