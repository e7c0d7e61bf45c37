"""Plug-ins: a user's architecture in one Python file outside the package."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from litmus.errors import BadInput, Failed, shown
from litmus.fork_server import communicate, start_process
from litmus.limits import TimeLimitExceeded, timeout
from litmus.model.recipe import PluginSource, Recipe
from litmus.model.renamed import explained, old_overrides
from litmus.model.trust import is_trusted, trust
from litmus.nn.core.classes import with_kinds
from litmus.nn.core.registry import Part
from litmus.process import is_out_of_memory, signal_name
from litmus.runtime.memory import limit_memory

PREFIX = "litmus_plugin_"
"""How the names of the modules begin that plug-ins are run as."""

_CODE: dict[str, bytes] = {}
"""The source of each plug-in version that ran in this process, by sha256; the file itself may be edited meanwhile."""

COPY = "plugin.py"
"""The copy of a plug-in next to what was made with it."""

LARGEST = 10_000_000
"""Bytes of a plug-in file; no larger one is read."""

LIMIT = 60.0
"""Seconds that a plug-in file may run to declare its parts, and that building a model of them may take."""

GRACE = 60.0
"""Seconds beyond the limit after which the process of a first run is ended: it first has to import torch."""

_ADVICE = "a plug-in declares its parts and its recipe, and does nothing else"
_CAME_BACK = b"came back"
_expendable = False


def import_plugin(path: Path) -> dict[str, Any]:
    """Run a plug-in file that the user named, and return its `recipe` with the file's own path and sha256.

    Its digest is trusted from now on: what was made with this code may run it again.
    """
    code = _code_in(path)
    recipe = run_plugin(code, path)
    trust(_digest(code), path.resolve())
    return recipe


def import_base(path: Path, named_in: Path, *, trusted: bool) -> dict[str, Any]:
    """What `import_plugin` returns, for a file that a recipe file names: run only if the user has named it before."""
    code = _code_in(path)
    if not trusted and not is_trusted(_digest(code)):
        raise BadInput(
            f"{named_in} is based on the code in {path} (sha256 {_digest(code)}), which you have not run yourself; "
            f"read it, then name that file, or add --trust-plugin (trust_plugin=True)"
        )
    return run_plugin(code, path)


def run_plugin(code: bytes, path: Path) -> dict[str, Any]:
    """Run the code of the plug-in file `path`, which declares its kinds, and return its `recipe`."""
    source = PluginSource(path=str(path.resolve()), sha256=_digest(code))
    module = _run(code, path.resolve(), path)
    raw = getattr(module, "recipe", None)
    if not isinstance(raw, dict):
        raise BadInput(
            f"{path} defines no recipe; end it with e.g. recipe = {{'base': 'standard', 'mixer': {{'kind': 'mine'}}}}"
        )
    return {"name": path.stem, **with_kinds(raw), "plugin": source.model_dump()}


def declare_plugin(source: PluginSource, folder: Path, *, trusted: bool) -> None:
    """Declare the kinds of a saved recipe's plug-in; `folder` is where the recipe was found, `trusted` its permission.

    What runs is the very code that the recipe was made with, from the original file or the copy in the folder: if
    the user has named a file of that content before, or gives permission now.
    """
    original, copy = Path(source.path), folder / COPY
    found = next(((file, code) for file in (original, copy) if (code := _code_of(file, source.sha256))), None)
    if found is None:
        raise BadInput(
            f"{folder} was made with the plug-in {original} (sha256 {source.sha256}), which is missing or has changed "
            f"since, and there is no copy of it in {copy}; restore the file"
        )
    file, code = found
    if not trusted and not is_trusted(source.sha256):
        raise BadInput(
            f"{folder} was made with the plug-in {file} (sha256 {source.sha256}), whose code you have not run "
            f"yourself; read it, then add --trust-plugin (trust_plugin=True) to run it"
        )
    _run(code, original, file)


def expendable() -> None:
    """Say that this process may be ended by what it runs, so that no plug-in is tried in another one first."""
    global _expendable
    _expendable = True


def plugin_code(source: PluginSource) -> bytes:
    """The source of a plug-in as it ran in this process; the file itself may have been edited since."""
    if source.sha256 not in _CODE:
        raise BadInput(f"the plug-in {source.path} (sha256 {source.sha256}) has not run in this process; name the file")
    return _CODE[source.sha256]


@contextlib.contextmanager
def plugin_faults(recipe: Recipe, doing: str, *, seconds: float | None = None, advice: str = "") -> Iterator[None]:
    """Failed, naming the plug-in and what it did, in place of whatever its code raises in this block.

    The block is stopped after `seconds`, if they are given, whatever the recipe; `advice` is for that case. A file
    that Litmus cannot read or write is no fault of a plug-in.
    """
    try:
        with staying(), timeout(seconds) if seconds else contextlib.nullcontext():
            yield
    except TimeLimitExceeded:
        if seconds is None:
            raise
        whose = f"of the plug-in {recipe.plugin.path} " if recipe.plugin else ""
        stopped = f"{doing} {recipe.name} {whose}took more than {seconds:g} s and was stopped"
        raise Failed(f"{stopped}; {advice}" if advice else stopped) from None
    except (BadInput, Failed, KeyboardInterrupt):
        raise
    except BaseException as error:
        # An OSError may be about our own file, a GeneratorExit come from who reads what this block yields.
        if recipe.plugin is None or (isinstance(error, OSError | GeneratorExit) and not _line(error)):
            raise
        raise Failed(f"the plug-in {recipe.plugin.path} failed in {doing} {recipe.name}: {_what(error)}") from error


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Come back to the working folder after this block: the paths that the user gave start there."""
    here = None
    with contextlib.suppress(OSError):  # it may have been removed
        here = os.getcwd()
    try:
        yield
    finally:
        if here is not None:
            with contextlib.suppress(OSError):
                os.chdir(here)


def _code_in(path: Path) -> bytes:
    if not path.is_file():
        raise BadInput(f"there is no plug-in file {str(path)!r}")
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes; a plug-in has up to {LARGEST:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None


def _code_of(file: Path, sha256: str) -> bytes | None:
    """What is in the file, where that has the digest."""
    try:
        code = file.read_bytes() if file.is_file() and file.stat().st_size <= LARGEST else b""
    except OSError:
        return None
    return code if _digest(code) == sha256 else None


def _digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()


def _run(code: bytes, plugin: Path, found: Path, limit: float | None = None) -> ModuleType:
    """Run `code`, which is that of the file `plugin` and was found in `found`, unless it ran; its kinds now hold."""
    _CODE[_digest(code)] = code
    version = _digest(bytes(plugin) + code)[:12]
    name = f"{PREFIX}{re.sub(r'[^0-9A-Za-z]', '_', plugin.stem)}_{version}"
    if name in sys.modules:
        for declared in vars(sys.modules[name]).values():
            if isinstance(declared, type) and issubclass(declared, Part) and declared.__module__ == name:
                declared.register()  # another version of the file may have run since
        return sys.modules[name]
    if not _expendable and not is_trusted(_digest(code)):  # what is on the list ran before, and ended
        _run_elsewhere(code, plugin, found)
    limit = LIMIT if limit is None else limit
    module = ModuleType(name)
    module.__file__ = str(plugin)  # a copy declares its kinds in the name of the plug-in
    sys.modules[name] = module
    try:
        with staying(), timeout(limit):
            exec(compile(code, str(found), "exec"), vars(module))
        if stale := old_overrides(module):
            raise BadInput(f"the plug-in {found} {stale}")
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (KeyboardInterrupt, BadInput)):
            raise
        if isinstance(error, TimeLimitExceeded):
            raise BadInput(
                f"{found} was still running after {limit:g} s{_line(error)} and was stopped; {_ADVICE}"
            ) from error
        raise BadInput(f"{found} does not run: {_what(error)}") from error
    return module


def _run_elsewhere(code: bytes, plugin: Path, found: Path) -> None:
    """Run the code in a process of its own; BadInput if it ends that process, hangs it or takes all memory.

    An error that it merely raises is left to the run in this process, which has its traceback.
    """
    arguments = (str(plugin), str(found), str(LIMIT))
    process = start_process("litmus.model.plugins", "first_run", *arguments, stderr=subprocess.DEVNULL)
    try:
        said = communicate(process, code, LIMIT + GRACE)
    except TimeoutError:
        raise BadInput(f"{found} was still running after {LIMIT:g} s and could not be interrupted; {_ADVICE}") from None
    if said == _CAME_BACK:
        return
    ended = process.wait()
    how = f"with exit code {ended}" if ended >= 0 else f"by {signal_name(-ended)}"
    raise BadInput(said.decode() or f"{found} ended the process that read it, {how}; {_ADVICE}")


def first_run() -> None:
    """The other process: run the code on stdin; on stdout, that it came back, or the sentence on why it may not run.

    What the code prints is dropped, as it runs once more.
    """
    code, out = sys.stdin.buffer.read(), os.dup(1)
    os.dup2(2, 1)
    expendable()
    limit_memory()
    said = _CAME_BACK
    try:
        _run(code, Path(sys.argv[1]), Path(sys.argv[2]), limit=float(sys.argv[3]))
    except BaseException as error:
        cause = error.__cause__ or error
        if isinstance(cause, TimeLimitExceeded) or is_out_of_memory(cause):
            said = str(error).encode()
    os.write(out, said)
    os._exit(0)  # whatever threads the code has begun


def _what(error: BaseException) -> str:
    """What was raised and, where that is in a plug-in, its line."""
    said = shown(explained(error), quoted=False, limit=300)
    return f"{type(error).__name__}{f': {said}' if said else ''}{_line(error)}"


def _line(error: BaseException) -> str:
    """The line of a plug-in that an exception came through last; empty when it came through none."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [number for frame, number in frames if frame.f_globals.get("__name__", "").startswith(PREFIX)]
    return f" (line {lines[-1]})" if lines else ""
