"""Plug-ins: a user's architecture in one Python file outside the package."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from litmus.errors import BadInput
from litmus.model.recipe import PluginSource


def import_plugin(path: Path) -> dict[str, Any]:
    """Run a plug-in file, which declares its kinds, and return its `recipe` with the file's own path and sha256."""
    if not path.is_file():
        raise BadInput(f"there is no plug-in file {str(path)!r}")
    source = PluginSource(path=str(path.resolve()), sha256=digest(path))
    module = _import(path, source.sha256)
    raw = getattr(module, "recipe", None)
    if not isinstance(raw, dict):
        raise BadInput(
            f"{path} defines no recipe; add e.g. recipe = {{'base': 'standard', 'mixer': {{'kind': 'mine'}}}} at its end"
        )
    return {"name": path.stem, **raw, "plugin": source.model_dump()}


def import_declarations(source: PluginSource, folder: Path, *, trust: bool) -> None:
    """Declare the kinds of a saved recipe's plug-in: from the file it came from, else from the trusted copy.

    Code that came with a folder runs only when `trust` says so; the user's own unchanged file runs as it is.
    """
    original, copy = Path(source.path), folder / "plugin.py"
    inside = original.resolve().is_relative_to(folder.resolve())
    if original.is_file() and not inside and digest(original) == source.sha256:
        _import(original, source.sha256)
    elif trust and copy.is_file():
        _import(copy, digest(copy))
    else:
        raise BadInput(
            f"{folder} was made with the plug-in {source.path}, which is missing or has changed since; "
            f"restore it, or run the copy in the folder with --trust-plugin (trust_plugin=True) if you trust its code"
        )


def digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _import(path: Path, sha256: str) -> Any:
    name = f"litmus_plugin_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{sha256[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (KeyboardInterrupt, BadInput)):
            raise
        raise BadInput(f"{path} does not run: {_where(error, path)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{line}"
