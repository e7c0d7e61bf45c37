"""Plug-ins: a user's architecture in one Python file outside the package."""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from litmus.errors import BadInput
from litmus.model.recipe import PluginSource
from litmus.nn.parts import Part

CODE: dict[str, bytes] = {}
"""The source of each plug-in version that ran in this process, by sha256; the file itself may be edited meanwhile."""


def import_plugin(path: Path) -> dict[str, Any]:
    """Run a plug-in file, which declares its kinds, and return its `recipe` with the file's own path and sha256."""
    if not path.is_file():
        raise BadInput(f"there is no plug-in file {str(path)!r}")
    module, source = _run(path, path.resolve())
    raw = getattr(module, "recipe", None)
    if not isinstance(raw, dict):
        raise BadInput(
            f"{path} defines no recipe; end it with e.g. recipe = {{'base': 'standard', 'mixer': {{'kind': 'mine'}}}}"
        )
    return {"name": path.stem, **raw, "plugin": source.model_dump()}


def import_declarations(source: PluginSource, folder: Path, *, trust: bool) -> PluginSource:
    """Declare the kinds of a saved recipe's plug-in, from the file it came from or the trusted copy; says what ran.

    Code that came with a folder runs only when `trust` says so; the user's own unchanged file runs as it is.
    """
    original, copy = Path(source.path), folder / "plugin.py"
    inside = original.resolve().is_relative_to(folder.resolve())
    if original.is_file() and not inside and _digest(original.read_bytes()) == source.sha256:
        return _run(original, original)[1]
    if trust and copy.is_file():
        return _run(copy, original)[1]
    raise BadInput(
        f"{folder} was made with the plug-in {source.path}, which is missing or has changed since; "
        f"restore it, or run the copy in the folder with --trust-plugin (trust_plugin=True) if you trust its code"
    )


def _digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()


def _run(path: Path, plugin: Path) -> tuple[ModuleType, PluginSource]:
    """Run the file `path`, which is `plugin` or a copy of it, unless this version of it ran; its kinds now hold."""
    code = path.read_bytes()
    source = PluginSource(path=str(plugin), sha256=_digest(code))
    CODE[source.sha256] = code
    version = _digest(bytes(plugin) + code)[:12]
    name = f"litmus_plugin_{re.sub(r'[^0-9A-Za-z]', '_', plugin.stem)}_{version}"
    if name in sys.modules:
        for declared in vars(sys.modules[name]).values():
            if isinstance(declared, type) and issubclass(declared, Part) and declared.__module__ == name:
                declared.declare()  # another version of the file may have run since
        return sys.modules[name], source
    module = ModuleType(name)
    module.__file__ = str(plugin)  # a copy declares its kinds in the name of the plug-in
    sys.modules[name] = module
    try:
        exec(compile(code, str(path), "exec"), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (KeyboardInterrupt, BadInput)):
            raise
        raise BadInput(f"{path} does not run: {_where(error, path)}") from error
    return module, source


def _where(error: BaseException, path: Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{line}"
