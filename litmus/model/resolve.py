"""Resolve a recipe name, YAML file, plug-in file or mapping to a Recipe: bases, size, overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.catalog import OWN_SIZE, RECIPE_FILES, SIZES, check_size, is_recipe, recipe_keys, recipes
from litmus.errors import BadInput, nearest
from litmus.model.plugins import declare_plugin, import_base, import_plugin
from litmus.model.recipe import FAMILIES, Recipe, kinds_for, merge, plugin_source, validated
from litmus.nn.core.classes import with_kinds
from litmus.nn.core.registry import declares_kinds, known_kinds
from litmus.yaml_json import mapping, parse_yaml

Source = str | Path | Mapping[str, Any] | Recipe


def resolve(
    source: Source,
    *,
    size: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
    trust_plugin: bool = False,
) -> Recipe:
    """The recipe: `source` merged over its bases, then the size, then overrides (nested or by dotted path).

    size: a row of SIZES; None and "own" keep the size in the recipe. A plug-in file given as `source` or in a mapping
    runs; one that a recipe file refers to runs only if the user has named a file with this content before, or with
    `trust_plugin`.
    """
    raw = dict(source.to_dict()) if isinstance(source, Recipe) else _with_bases(source, trusted=trust_plugin)
    if size not in (None, OWN_SIZE):
        raw = at_size(raw, size)
    with kinds_for(raw):
        for path, value in (overrides or {}).items():
            raw = merge(raw, with_kinds(nested(path, value)))
    if vocab_size is not None:
        raw["vocab_size"] = vocab_size
    return validated(raw)


def at_size(raw: dict[str, Any], size: str) -> dict[str, Any]:
    """`raw` with a size of SIZES; keys that depend on the size (hidden widths, head counts) are reset to defaults."""
    check_size(size)
    with kinds_for(raw):
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
            known = known_kinds(family)
            keys = {key for kind in known.values() for key in kind.size_keys}
            declared = known.get(str(part.get("kind")))
            drop = keys if declared is None else set(declared.size_keys)
            kept[name] = {key: value for key, value in part.items() if key not in drop}
    if isinstance(groups := raw.get("layers"), list | tuple):
        kept["layers"] = [_without_sized_keys(group) if isinstance(group, Mapping) else group for group in groups]
    return kept


def _with_bases(source: str | Path | Mapping[str, Any], *, trusted: bool) -> dict[str, Any]:
    """The mapping of `source`, merged over its base, the base of its base, and so on."""
    diffs: list[dict[str, Any]] = []
    seen: list[str] = []
    found: str | Path | Mapping[str, Any] | None = source
    named_in: Path | None = None  # the recipe file that refers to `found`; None: the user named it
    while found is not None:
        raw, here = _read(found, named_in, trusted=trusted)
        diffs.append(raw)
        base = raw.pop("base", None)
        if isinstance(found, str | Path) and Path(found).suffix in RECIPE_FILES:
            named_in = Path(found)
        if base is None:
            break
        if str(base) in seen:
            raise BadInput(f"recipe bases run in a circle: {' -> '.join((*seen, str(base)))}")
        seen.append(str(base))
        local = here / str(base) if here else None
        found = local if local is not None and local.is_file() else str(base)
    whole: dict[str, Any] = {}
    plugin = {"plugin": _plugin(diffs)} if any(raw.get("plugin") for raw in diffs) else {}
    with kinds_for(plugin):
        for raw in reversed(diffs):
            whole = merge(whole, raw)
    return {**whole, **plugin}


def _plugin(diffs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plug-in of a recipe, of which these are the diff and those of its bases: the one that declares its kinds.

    A saved recipe names one file, so BadInput if two declare kinds.
    """
    found = [plugin_source(raw["plugin"], Path(str(raw.get("name")))) for raw in diffs if raw.get("plugin")]
    declaring = list(dict.fromkeys(source for source in found if declares_kinds(source.module)))
    if len(declaring) > 1:
        first, second = declaring[:2]
        raise BadInput(
            f"{first.path} defines parts and is based on {second.path}, which does so, too; a recipe has the parts of "
            f"one file: copy those it needs into {Path(first.path).name}"
        )
    return (declaring or found)[0].model_dump()


def _read(
    source: str | Path | Mapping[str, Any], named_in: Path | None, *, trusted: bool
) -> tuple[dict[str, Any], Path | None]:
    """The mapping of `source`, with a name, and the folder to which its relative paths refer."""
    if isinstance(source, Mapping):
        return {"name": "unnamed", **with_kinds(source)}, None
    path = Path(source)
    if path.suffix == ".py":
        if named_in is None:
            return import_plugin(path), path.parent
        return import_base(path, named_in, trusted=trusted), path.parent
    if path.suffix in RECIPE_FILES:
        if not path.is_file():
            raise BadInput(f"there is no recipe file {str(path)!r}")
        raw = _parse(path.read_bytes(), str(path), path.stem)
        if raw.get("plugin"):
            declare_plugin(plugin_source(raw["plugin"], path), path.parent, trusted=trusted)
        return raw, path.parent
    if not is_recipe(str(source)):
        raise BadInput(f"unknown recipe {str(source)!r}; {nearest(str(source), recipes())}")
    return {"name": str(source), **recipe_keys(str(source))}, None


def _parse(text: bytes, origin: str, name: str) -> dict[str, Any]:
    return {"name": name, **mapping(parse_yaml(text, origin), origin, "recipe keys")}
