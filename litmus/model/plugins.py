"""Plug-ins: architectures defined in a Python file outside the package."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from litmus.errors import BadInput, Failed, shown
from litmus.files import real_path, sha256
from litmus.fork_server import communicate, start_process
from litmus.limits import TimeLimitExceeded, patience, timeout
from litmus.model.recipe import PluginSource, Recipe, plugin_module
from litmus.model.renamed import explained, old_overrides
from litmus.model.trust import is_trusted, trust
from litmus.nn.core.classes import with_kinds
from litmus.nn.core.registry import PLUGIN_PREFIX, forget_kinds, plugin_kinds
from litmus.process import is_out_of_memory, signal_name
from litmus.runtime.memory import limit_memory

_CODE: dict[str, bytes] = {}
"""Source of each plug-in version that ran in this process, by sha256; the file may have been edited since."""

PLUGIN_FILE = "plugin.py"
"""Name of the copy of a plug-in in folders of models and runs."""

MAX_PLUGIN_BYTES = 10_000_000
"""Maximum size of a plug-in file."""

MAX_PLUGIN_SECONDS = 60.0
"""Time limit for running a plug-in file, and for building a model."""

STARTUP_SECONDS = 60.0
"""Additional time for the process of a trial run, which has to import torch, before it is killed."""

_ADVICE = "a plug-in declares its parts and its recipe, and does nothing else"
_RETURNED = b"returned"
_trial_runs_disabled = False


def import_plugin(path: Path) -> dict[str, Any]:
    """Run a plug-in file that the user named; return its `recipe` with the file's path and sha256.

    The code is trusted from now on: models and runs made with it can run it again.
    """
    code = _read_code(path)
    recipe = run_plugin(code, path)
    trust(sha256(code), real_path(path))
    return recipe


def import_definitions(path: Path) -> ModuleType:
    """Run a Python file that the user named, which need not define a recipe; the code is trusted from now on."""
    code = _read_code(path)
    module = _run(code, real_path(path), path)
    trust(sha256(code), real_path(path))
    return module


def import_base(path: Path, named_in: Path, *, trusted: bool) -> dict[str, Any]:
    """`import_plugin` for a file that a recipe file refers to; it runs only if the user has named it before."""
    code = _read_code(path)
    if not trusted and not is_trusted(sha256(code)):
        raise BadInput(
            f"{named_in} is based on the code in {path} (sha256 {sha256(code)}), which you have not run yourself; "
            f"read it, then name that file, or add --trust-plugin (trust_plugin=True)"
        )
    return run_plugin(code, path)


def run_plugin(code: bytes, path: Path) -> dict[str, Any]:
    """Run the code of the plug-in file `path`, which registers its kinds, and return its `recipe`."""
    source = PluginSource(path=str(real_path(path)), sha256=sha256(code))
    module = _run(code, real_path(path), path)
    raw = getattr(module, "recipe", None)
    if not isinstance(raw, dict):
        raise BadInput(
            f"{path} defines no recipe; end it with e.g. recipe = {{'base': 'standard', 'mixer': {{'kind': 'mine'}}}}"
        )
    return {"name": path.stem, **with_kinds(raw), "plugin": source.model_dump()}


def declare_plugin(source: PluginSource, folder: Path, *, trusted: bool) -> None:
    """Register the kinds of the plug-in of a saved recipe in `folder`.

    The code is that with which the recipe was made, from the original file or from the copy in the folder. It runs only
    if the user has named a file with this content before, or with `trusted`.
    """
    original, copy = Path(source.path), folder / PLUGIN_FILE
    found = next(((file, code) for file in (original, copy) if (code := _code_with_digest(file, source.sha256))), None)
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


def disable_trial_runs() -> None:
    """Run plug-ins directly from now on, without a trial run in another process: this process may be killed by them."""
    global _trial_runs_disabled
    _trial_runs_disabled = True


def plugin_code(source: PluginSource) -> bytes:
    """The source of a plug-in as it ran in this process; the file may have been edited since."""
    if source.sha256 not in _CODE:
        raise BadInput(f"the plug-in {source.path} (sha256 {source.sha256}) has not run in this process; name the file")
    return _CODE[source.sha256]


@contextlib.contextmanager
def plugin_faults(recipe: Recipe, doing: str, *, seconds: float | None = None, advice: str = "") -> Iterator[None]:
    """Raise Failed with the plug-in's path and line for any exception of its code in this block.

    The block is stopped after `seconds`, if given, for any recipe; `advice` is appended to that message. Errors of
    files that Litmus reads or writes are not attributed to the plug-in.
    """
    try:
        with restored_cwd(), timeout(seconds) if seconds else contextlib.nullcontext():
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
        # An OSError may be about a file of Litmus, a GeneratorExit may come from the consumer of a generator.
        if recipe.plugin is None or (isinstance(error, OSError | GeneratorExit) and not _plugin_line(error)):
            raise
        raise Failed(f"the plug-in {recipe.plugin.path} failed in {doing} {recipe.name}: {_describe(error)}") from error


@contextlib.contextmanager
def restored_cwd() -> Iterator[None]:
    """Restore the working folder after this block, because paths given by the user are relative to it."""
    here = None
    with contextlib.suppress(OSError):  # it may have been removed
        here = os.getcwd()
    try:
        yield
    finally:
        if here is not None:
            with contextlib.suppress(OSError):
                os.chdir(here)


def _read_code(path: Path) -> bytes:
    if not path.is_file():
        raise BadInput(f"there is no plug-in file {str(path)!r}")
    try:
        if path.stat().st_size > MAX_PLUGIN_BYTES:
            raise BadInput(f"{path} has {path.stat().st_size:,} bytes; a plug-in has up to {MAX_PLUGIN_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None


def _code_with_digest(file: Path, digest: str) -> bytes | None:
    """The content of the file if it has this digest, else None."""
    try:
        code = file.read_bytes() if file.is_file() and file.stat().st_size <= MAX_PLUGIN_BYTES else b""
    except OSError:
        return None
    return code if sha256(code) == digest else None


def _run(code: bytes, plugin: Path, found: Path, limit: float | None = None) -> ModuleType:
    """Run `code` of the plug-in file `plugin`, read from the file `found`, unless it has run; register its kinds."""
    _CODE[sha256(code)] = code
    name = plugin_module(str(plugin), sha256(code))
    if name in sys.modules:
        _register_classes(sys.modules[name])  # those it imports may have been reloaded
        return sys.modules[name]
    if not _trial_runs_disabled and not is_trusted(sha256(code)):  # trusted code has run before, and terminated
        _trial_run(code, plugin, found)
    limit = MAX_PLUGIN_SECONDS if limit is None else limit
    module = ModuleType(name)
    module.__file__ = str(plugin)  # the kinds of a copy are those of the plug-in
    sys.modules[name] = module
    forget_kinds(name)
    try:
        with restored_cwd(), plugin_kinds(name), timeout(limit):
            exec(compile(code, str(found), "exec"), vars(module))
        if stale := old_overrides(module):
            raise BadInput(f"the plug-in {found} {stale}")
        _register_classes(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (KeyboardInterrupt, BadInput)):
            raise
        if isinstance(error, TimeLimitExceeded):
            raise BadInput(
                f"{found} was still running after {limit:g} s{_plugin_line(error)} and was stopped; {_ADVICE}"
            ) from error
        raise BadInput(f"{found} does not run: {_describe(error)}") from error
    return module


def _register_classes(module: ModuleType) -> None:
    """Register the classes in the plug-in's recipe as kinds: a saved recipe names only the kinds."""
    if isinstance(raw := getattr(module, "recipe", None), dict):
        with_kinds(raw)


def _trial_run(code: bytes, plugin: Path, found: Path) -> None:
    """Trial run in another process; BadInput if the code kills that process, hangs or exhausts the memory.

    Exceptions are ignored here, because the run in this process will report them with a traceback.
    """
    arguments = (str(plugin), str(found), str(MAX_PLUGIN_SECONDS))
    process = start_process("litmus.model.plugins", "first_run", *arguments, stderr=subprocess.DEVNULL)
    try:
        output = communicate(process, code, (MAX_PLUGIN_SECONDS + STARTUP_SECONDS) * patience())
    except TimeoutError:
        raise BadInput(
            f"{found} was still running after {MAX_PLUGIN_SECONDS:g} s and could not be interrupted; {_ADVICE}"
        ) from None
    if output == _RETURNED:
        return
    ended = process.wait()
    how = f"with exit code {ended}" if ended >= 0 else f"by {signal_name(-ended)}"
    raise BadInput(output.decode() or f"{found} ended the process that read it, {how}; {_ADVICE}")


def first_run() -> None:
    """Entry point of the trial process: run the code from stdin; write `_RETURNED` or an error message to stdout.

    Output of the code is discarded, as it will run again.
    """
    code, out = sys.stdin.buffer.read(), os.dup(1)
    os.dup2(2, 1)
    disable_trial_runs()
    limit_memory()
    output = _RETURNED
    try:
        _run(code, Path(sys.argv[1]), Path(sys.argv[2]), limit=float(sys.argv[3]))
    except BaseException as error:
        cause = error.__cause__ or error
        if isinstance(cause, TimeLimitExceeded) or is_out_of_memory(cause):
            output = str(error).encode()
    os.write(out, output)
    os._exit(0)  # does not wait for threads that the code has started


def _describe(error: BaseException) -> str:
    """Type and message of the exception, and the line of the plug-in that raised it, if one did."""
    text = shown(explained(error), quoted=False, limit=300)
    return f"{type(error).__name__}{f': {text}' if text else ''}{_plugin_line(error)}"


def _plugin_line(error: BaseException) -> str:
    """The innermost line of a plug-in in the traceback, as " (line 12)"; empty if there is none."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [number for frame, number in frames if frame.f_globals.get("__name__", "").startswith(PLUGIN_PREFIX)]
    return f" (line {lines[-1]})" if lines else ""
