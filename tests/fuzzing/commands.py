"""One command in a process of its own, forked from one that has imported everything: milliseconds in place of seconds.

What an interpreter does at its start and end for the real command is done here by hand: the streams that are closed,
full or of another encoding, and the flush at the end that may fail.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litmus import fork_server

MEMORY, FILE_BYTES, CPU_SECONDS, WALL_SECONDS = 6 << 30, 1 << 28, 90, 600
"""More than a command's own limits (`prepared_to_fork`) on a machine as loaded as litmus.limits.patience goes."""
MAX_SHOWN = 1 << 22
"""Bytes of a command's output that are looked at: a plug-in may print without end."""
ENDLESS_CPU, ENDLESS_WALL, LEAVE_SECONDS = 8.0, 60.0, 60.0
"""What takes as long as it was told to (a training) is asked to stop after so long, and has so long to save."""
FLUSH_FAILED = 120
"""The exit code of an interpreter that cannot write at its end what it has not yet written."""


@dataclass(frozen=True)
class Streams:
    """stdin: a text, or None for a closed one. stdout and stderr: file, closed, full, or a pipe nobody reads."""

    stdin: str | None = ""
    stdout: str = "file"
    stderr: str = "file"
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal that ended it), its output, and what it left behind."""

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False
    endless: bool = False
    orphans: tuple[int, ...] = ()


def prepared_to_fork() -> None:
    """Import what commands import, on one thread, so that a fork of this process can do any of them."""
    import torch

    torch.set_num_threads(1)
    import scipy.stats  # noqa: F401

    import litmus

    for module in pkgutil.walk_packages(litmus.__path__, "litmus."):
        if not module.name.endswith("_kernel"):  # those need a GPU's compiler
            importlib.import_module(module.name)
    with contextlib.suppress(ImportError):
        import pyarrow.parquet  # noqa: F401
    short = {"MAX_PLUGIN_SECONDS": 8.0, "LIMIT_SECONDS": (8.0, 30.0), "STARTUP_SECONDS": 8.0}
    for name, loaded in sys.modules.items():  # plug-ins that loop would take most of the time of a long fuzz
        if name.startswith("litmus"):
            vars(loaded).update({limit: seconds for limit, seconds in short.items() if hasattr(loaded, limit)})


def run(
    arguments: list[str],
    folder: Path,
    outputs: Path,
    environment: Mapping[str, str],
    streams: Streams = Streams(),
    endless: bool = False,
) -> Ended:
    """Run `litmus ARGUMENTS` in `folder`; its output goes to files in `outputs`, which lies elsewhere."""
    began = time.monotonic()
    child = started(arguments, folder, outputs, environment, streams)
    hung, interrupted, code = _waited(child, began, endless)
    left = tuple(_members(child))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return Ended(
        code,
        _text(outputs / "out"),
        _text(outputs / "err"),
        time.monotonic() - began,
        hung=hung,
        endless=interrupted,
        orphans=left,
    )


def started(
    arguments: list[str], folder: Path, outputs: Path, environment: Mapping[str, str], streams: Streams = Streams()
) -> int:
    """Begin a command as `run` does; the number of its process, which leads a session of its own."""
    for name in ("out", "err"):
        (outputs / name).unlink(missing_ok=True)  # of the command before
    sys.stdout.flush()
    sys.stderr.flush()
    fork_server._Server.connection()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            _take_over_template()
            code = _command(arguments, folder, outputs, environment, streams)
        finally:
            os._exit(code)
    return child


class _OfParent:
    """The template process of the process that forked this one: not this one's to wait for, nor to end."""

    def poll(self) -> None:
        return None

    def kill(self) -> None: ...

    def wait(self) -> None: ...


def _take_over_template() -> None:
    """Fork from the parent's template: a template for each command would import torch for each command."""
    fork_server._Server._owner = os.getpid()
    fork_server._Server._process = _OfParent()  # type: ignore[assignment]


def _waited(child: int, began: float, endless: bool) -> tuple[bool, bool, int]:
    """Whether it hung, whether it was asked to stop, and its exit code (negative for a signal)."""
    interrupted = False
    until = began + (ENDLESS_WALL if endless else WALL_SECONDS)
    handle = os.pidfd_open(child)
    try:
        while not select.select([handle], [], [], 0.5)[0]:
            if endless and not interrupted and (time.monotonic() > until or _cpu_seconds(child) > ENDLESS_CPU):
                interrupted, until = True, time.monotonic() + LEAVE_SECONDS
                os.kill(child, signal.SIGINT)
            elif time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True, interrupted, -signal.SIGKILL
    finally:
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code == -signal.SIGXCPU, interrupted, code


def _cpu_seconds(child: int) -> float:
    """Time on the processor of a process and of its own processes that have ended."""
    with contextlib.suppress(OSError):
        used = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:15]
        return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _members(group: int) -> Iterator[int]:
    """The processes of a group whose leader has ended and that still live a second later."""
    for patience in (0.0, 0.2, 0.8):
        time.sleep(patience)
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
    yield group


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return file.read(MAX_SHOWN).decode("utf-8", "replace")


def _command(
    arguments: list[str], folder: Path, outputs: Path, environment: Mapping[str, str], streams: Streams
) -> int:
    """The child: becomes the command; returns its exit code."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _connect(outputs, streams)
    sys.argv = ["litmus", *arguments]
    code = _exit_code()
    threading._shutdown()  # type: ignore[attr-defined]  # an interpreter waits for its threads
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            if stream is sys.stderr:
                return code
            _say(f"Exception ignored while flushing sys.stdout: {error!r}")
            code = FLUSH_FAILED
    return code


def _exit_code() -> int:
    from litmus.cli import main

    try:
        main()
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):
            return (ending.code or 0) & 0xFF
        _say(str(ending.code))
        return 1
    except KeyboardInterrupt:
        _say(traceback.format_exc())
        return -signal.SIGINT & 0xFF
    except BaseException:
        _say(traceback.format_exc())
        return 1
    return 0


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))


def _connect(outputs: Path, streams: Streams) -> None:
    if streams.stdin is None:
        os.close(0)
        sys.stdin = None  # type: ignore[assignment]
    else:
        (outputs / "in").write_bytes(streams.stdin.encode("utf-8", "surrogateescape"))
        os.dup2(os.open(outputs / "in", os.O_RDONLY), 0)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding=streams.encoding)
    sys.stdout = _output(1, streams.stdout, outputs / "out", streams.encoding, "strict")
    sys.stderr = _output(2, streams.stderr, outputs / "err", streams.encoding, "backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _output(number: int, kind: str, path: Path, encoding: str, errors: str) -> Any:
    if kind == "closed":
        os.close(number)
        return None
    if kind == "unread":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full" if kind == "full" else path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(writer, number)
    os.close(writer)
    raw = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=number == 2, write_through=number == 2
    )
