"""The built-in recipe files: their names and keys, without importing torch or building a model."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from litmus.errors import BadInput, nearest, shown
from litmus.yaml_json import mapping, parse_yaml

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 128, "depth": 5, "heads": 4},
    "mini": {"dim": 256, "depth": 6, "heads": 4},
    "small": {"dim": 512, "depth": 10, "heads": 8},
    "base": {"dim": 768, "depth": 12, "heads": 12},
}
"""The size table: about 1M, 5M, 30M and 85M (GPT-2 small) non-embedding parameters for `standard`."""

OWN_SIZE = "own"
"""The size that the recipe itself states, instead of a row of the size table."""

SIZE_KEYS = ("dim", "depth", "heads", "vocab_size", "context")
"""The keys that set a model's size; every built-in recipe states them or inherits them from its base."""

RECIPE_FILES = (".yaml", ".yml")

RENAMED = {"latent": "compressed"}
"""Built-in recipes and kinds that version 0.1.0 had under other names, which can still be given: old, new."""


def recipes() -> list[str]:
    """The names of the built-in recipes, sorted."""
    return sorted(path.name[:-5] for path in (files("litmus") / "recipes").iterdir() if path.name.endswith(".yaml"))


def is_recipe(name: object) -> bool:
    """Whether this is the name of a built-in recipe, or was in version 0.1.0."""
    return name in recipes() or name in RENAMED


@cache
def recipe_keys(name: str) -> dict[str, Any]:
    """The keys in the file of a built-in recipe, `base` included; do not modify the result."""
    name = RENAMED.get(name, name)
    text = (files("litmus") / "recipes" / f"{name}.yaml").read_bytes()
    return mapping(parse_yaml(text, name), name, "recipe keys")


def summary_keys(name: str, size: str | None = None) -> dict[str, Any]:
    """The scalar keys of a built-in recipe (about, dim, depth, heads, ...), at a row of the size table."""
    check_size(size)
    keys = dict(recipe_keys(name))
    while base := keys.pop("base", None):
        keys = {**recipe_keys(base), **{key: value for key, value in keys.items() if key != "base"}}
    return {**keys, **SIZES.get(size or OWN_SIZE, {})}


def check_size(size: str | None) -> None:
    """BadInput for a size that is not in the table."""
    if size not in (None, OWN_SIZE, *SIZES):
        raise BadInput(f"unknown size {shown(size)}; {nearest(str(size), [*SIZES, OWN_SIZE])}")


def check_source(name: str) -> None:
    """BadInput for a name that is neither a built-in recipe, a recipe file, a plug-in file nor a folder."""
    if is_recipe(name) or os.path.isdir(name):
        return
    if name.endswith((".py", *RECIPE_FILES)) or os.sep in name:
        if os.path.isfile(name):
            return
        raise BadInput(f"there is no {'plug-in' if name.endswith('.py') else 'recipe'} file {shown(name, limit=300)}")
    raise BadInput(f"unknown recipe {shown(name)}; {nearest(name, recipes())}")


HF = "hf:"
"""What begins the name of a folder whose model is one of transformers."""


def builder(name: str) -> tuple[Path, str] | None:
    """The file and the function or class in it, of a name such as "model.py:build"; None for any other."""
    file, colon, function = name.rpartition(":")
    return (Path(file), function) if colon and file.endswith(".py") and function.isidentifier() else None


def check_audited(name: str) -> None:
    """BadInput for a name that is no source of `check_source`, no hf:FOLDER and no file.py:build."""
    if name.startswith(HF):
        check_run(name.removeprefix(HF), "model")
    elif (named := builder(name)) is None:
        check_source(name)
    elif not named[0].is_file():
        raise BadInput(f"there is no file {shown(str(named[0]), limit=300)}")


def check_run(folder: str | os.PathLike[str], kind: str = "run") -> None:
    """BadInput if the folder does not exist."""
    if not os.path.isdir(folder):
        found = "is a file" if os.path.exists(folder) else "is not there"
        raise BadInput(f"{shown(os.fspath(folder), quoted=False, limit=300)} {found}; a {kind} folder is expected")
