"""How a process of Litmus begins and ends: streams that nothing breaks, signals, one sentence and an exit code.

Every entry point uses it: the command line, the trials of a comparison, and the process of an audit.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from litmus.errors import BadInput, Failed, message, shown

FAILED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 130, 141, 143
"""Exit codes besides 0; the last three are 128 + the number of SIGINT, SIGPIPE and SIGTERM."""

LONGEST = 1500
"""Characters of a sentence that are shown."""

AGAIN = 0.01
"""Seconds until a signal is sent again that came where nothing can be raised."""

DEBUG = "LITMUS_DEBUG"
"""The environment variable that shows tracebacks; processes that this one starts inherit it."""

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP from a terminal that was closed."""

    exit_code = TERMINATED


class Output(io.FileIO):
    """A standard stream. Its first failure is raised, what comes after it is dropped; `lasting` drops all quietly."""

    failure: OSError | None = None
    lasting = False

    def write(self, data: Any, /) -> int:
        if self.failure is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.failure = error
                if not self.lasting:
                    raise
        return len(data)


def begin() -> None:
    """Make this process's streams and signals safe; for entry points, before anything else."""
    _open_streams()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)  # a signal that was ignored from the start (nohup) stays so
    sys.unraisablehook = _unraisable


def end(code: int) -> NoReturn:
    """Leave the process with `code`; a signal from now on ends it at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def run(work: Callable[[], int | None], *, prefix: str = "litmus: ") -> int:
    """The exit code of `work`, whatever it raises; what went wrong is one sentence on stderr.

    0 done, 1 the thing tested failed or Litmus itself did, 2 bad input, 130 Ctrl-C, 141 nobody reads the output any
    more, 143 SIGTERM or SIGHUP.
    """
    _received.clear()
    try:
        code = work() or 0
        sys.stdout.flush()
    except SystemExit:
        failure = _failure(sys.stdout)
        if failure is None:
            raise
        return _told(failure, prefix)  # a library left because nobody reads; it says neither why nor with which code
    except BaseException as error:
        return _told(error, prefix)
    failure = _failure(sys.stdout)
    return code if failure is None or failure.errno == errno.EPIPE else _told(failure, prefix)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Within this block work goes on when nobody can read what is shown; `run` says so at its end.

    For commands whose product is a folder: a full disk behind stdout or a closed pager costs no training.
    """
    outputs = [out for stream in (sys.stdout, sys.stderr) if (out := _output(stream)) is not None]
    for out in outputs:
        out.lasting = True
    try:
        yield
    finally:
        for out in outputs:
            out.lasting = False


@contextlib.contextmanager
def debugging(wanted: bool) -> Iterator[None]:
    """Within this block tracebacks are shown if `wanted`, here and in processes started here."""
    before = os.environ.get(DEBUG)
    if wanted:
        os.environ[DEBUG] = "1"
    try:
        yield
    finally:
        if wanted:
            os.environ.pop(DEBUG)
            if before is not None:
                os.environ[DEBUG] = before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that more memory was asked for than there is, in this process or on a device."""
    return isinstance(error, MemoryError) or (
        type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in message(error) for words in _OUT_OF_MEMORY))
    )


def signal_name(number: int) -> str:
    """The name of a signal that ended a process, such as "SIGKILL (out of memory, perhaps)"."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (out of memory, perhaps)" if name == "SIGKILL" else name


def _told(error: BaseException, prefix: str) -> int:
    """Say on stderr what `error` means; its exit code."""
    with contextlib.suppress(OSError, ValueError):  # a stderr that is gone says nothing
        if os.environ.get(DEBUG):
            traceback.print_exception(error, file=sys.stderr)
        sentence, code = verdict_on(error)
        if len(sentence) > LONGEST:  # of a path, most likely
            sentence = shown(sentence, quoted=False, limit=LONGEST)
        if sentence:
            print(f"{prefix}{sentence}", file=sys.stderr, flush=True)
        return code
    return verdict_on(error)[1]


def verdict_on(error: BaseException) -> tuple[str, int]:
    """What an exception means to the person at the command line: a sentence, and the exit code."""
    if isinstance(error, KeyboardInterrupt) or _received:
        default = INTERRUPTED if _received in ([], [signal.SIGINT]) else TERMINATED
        words = "interrupted" if default == INTERRUPTED else "terminated"
        said = str(error) if isinstance(error, KeyboardInterrupt) else ""
        return said or words, getattr(error, "exit_code", default)
    if isinstance(error, Failed):
        return str(error), FAILED
    if isinstance(error, BadInput):
        return str(error), BAD_INPUT
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, EOFError):
        return f"an input ended too early: {_first_line(error)}; --debug shows where", BAD_INPUT
    if is_out_of_memory(error):
        return "there is not enough memory for this; take a smaller size, batch or context", BAD_INPUT
    if isinstance(error, RecursionError):
        return "the input is nested too deeply, or refers to itself; --debug shows where", BAD_INPUT
    if isinstance(error, UnicodeError):
        return f"a text cannot be read or written in its encoding: {_first_line(error)}; --debug shows where", BAD_INPUT
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):  # pydantic's, not imported here
        fault = error.errors()[0]
        place, found = ".".join(str(part) for part in fault["loc"]), shown(fault["input"])
        return (
            f"{getattr(error, 'title', '')}: {place} = {found} is not valid: {fault['msg']}; --debug shows where",
            BAD_INPUT,
        )
    if isinstance(error, ValueError | OverflowError):
        return f"the input cannot be used: {_first_line(error)}; --debug shows where", BAD_INPUT
    place = _place(error)
    return (
        f"internal error, a fault of Litmus: {type(error).__name__}: {_first_line(error)}{place}; "
        "please report it with what --debug shows",
        FAILED,
    )


def _of_the_system(error: OSError) -> tuple[str, int]:
    if error is _failure(sys.stdout):
        if error.errno == errno.EPIPE:
            return "", BROKEN_PIPE  # whoever read the output has read enough
        return f"standard output cannot be written: {error.strerror}", BAD_INPUT
    what = error.strerror or _first_line(error) or type(error).__name__
    files = [shown(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(files)}: {what}" if files else what, BAD_INPUT


def _first_line(error: BaseException) -> str:
    lines = message(error).strip().splitlines()
    return shown(lines[0].rstrip("."), quoted=False, limit=200) if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """Where in this package an exception comes from."""
    package = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(package):
            return f" ({Path(frame.filename).relative_to(package.parent)}, line {frame.lineno})"
    return ""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received[:] = [number]
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Send the signal again where it came while Python ran a destructor or callback, whose exceptions it drops."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = _received[0] if _received else signal.SIGINT
    again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))  # from here it would be dropped once more
    again.daemon = True
    again.start()


def _open_streams() -> None:
    """Put something behind closed streams, and let each replace what it cannot encode or decode."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)


def _safe(stream: Any, descriptor: int) -> Any:
    if stream is not None and (type(stream) is not io.TextIOWrapper or stream.fileno() != descriptor):
        return stream  # somebody put it there
    if stream is not None and sys.platform == "win32" and stream.isatty():
        stream.reconfigure(errors="replace")  # a console takes no bytes
        return stream
    out = Output(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(out),
        encoding=stream.encoding if stream else "utf-8",
        errors="replace",
        line_buffering=descriptor == 2 or out.isatty(),
        write_through=bool(stream and stream.write_through),
    )


def _output(stream: Any) -> Output | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Output) else None


def _failure(stream: Any) -> OSError | None:
    out = _output(stream)
    return None if out is None else out.failure
