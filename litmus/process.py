"""Start and end of every Litmus process: robust standard streams, signals, and errors as a sentence and an exit code.

Used by the command line, the trials of a comparison and the audit's subprocess.
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
"""Exit codes other than 0; the last three are 128 + the number of SIGINT, SIGPIPE and SIGTERM."""

MAX_MESSAGE_CHARACTERS = 1500

RESEND_SECONDS = 0.01
"""Delay before a signal is sent again that arrived where no exception can be raised."""

DEBUG = "LITMUS_DEBUG"
"""The environment variable that turns on tracebacks; child processes inherit it."""

SPINS = ("GOMP_SPINCOUNT", "30000")
"""How often a thread of OpenMP looks for work before it sleeps. GNU's default is ten times as often: a training on as
many threads as cores then waits milliseconds at every step of a sum when another process needs one of the cores."""

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")
_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP from a closed terminal."""

    exit_code = TERMINATED


class Output(io.FileIO):
    """A standard stream: the first failed write raises, later ones are dropped; with `defer_errors` none raises."""

    failure: OSError | None = None
    defer_errors = False

    def write(self, data: Any, /) -> int:
        if self.failure is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.failure = error
                if not self.defer_errors:
                    raise
        return len(data)


def begin() -> None:
    """Set up this process's streams, signal handlers and threads; entry points call it before they load PyTorch."""
    _open_streams()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(*SPINS)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _raise_interrupt)  # a signal ignored from the start (nohup) stays ignored
    sys.unraisablehook = _unraisable


def end(code: int) -> NoReturn:
    """Exit with `code`; from now on a signal ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def run(work: Callable[[], int | None], *, prefix: str = "litmus: ") -> int:
    """Run `work` and return an exit code; an exception becomes one sentence on stderr.

    0 done, 1 the thing tested failed (or an internal error), 2 bad input, 130 Ctrl-C, 141 broken pipe, 143 SIGTERM or
    SIGHUP.
    """
    _received.clear()
    try:
        code = work() or 0
        sys.stdout.flush()
    except SystemExit:
        failure = _failure(sys.stdout)
        if failure is None:
            raise
        return _report(failure, prefix)  # a library exited on a broken pipe, without reason or code
    except BaseException as error:
        return _report(error, prefix)
    failure = _failure(sys.stdout)
    return code if failure is None or failure.errno == errno.EPIPE else _report(failure, prefix)


@contextlib.contextmanager
def defer_output_errors() -> Iterator[None]:
    """Within this block failed writes to stdout and stderr raise nothing; `run` reports them at its end.

    For commands whose product is a folder: a full disk behind stdout or a closed pager must not end a training.
    """
    outputs = [out for stream in (sys.stdout, sys.stderr) if (out := _output(stream)) is not None]
    for out in outputs:
        out.defer_errors = True
    try:
        yield
    finally:
        for out in outputs:
            out.defer_errors = False


@contextlib.contextmanager
def debugging(wanted: bool) -> Iterator[None]:
    """Within this block tracebacks are shown if `wanted`, in this process and its children."""
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
    """Whether the error means out of memory, in this process or on a device."""
    return isinstance(error, MemoryError) or (
        type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in message(error) for words in _OUT_OF_MEMORY))
    )


def signal_name(number: int) -> str:
    """The name of the signal that ended a process, such as "SIGKILL (out of memory, perhaps)"."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (out of memory, perhaps)" if name == "SIGKILL" else name


def _report(error: BaseException, prefix: str) -> int:
    """Print one sentence about `error` on stderr; return its exit code."""
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        if os.environ.get(DEBUG):
            traceback.print_exception(error, file=sys.stderr)
        sentence, code = describe_error(error)
        if len(sentence) > MAX_MESSAGE_CHARACTERS:  # of a path, most likely
            sentence = shown(sentence, quoted=False, limit=MAX_MESSAGE_CHARACTERS)
        if sentence:
            print(f"{prefix}{sentence}", file=sys.stderr, flush=True)
        return code
    return describe_error(error)[1]


def describe_error(error: BaseException) -> tuple[str, int]:
    """A sentence about an exception for the user, and the exit code."""
    if isinstance(error, KeyboardInterrupt) or _received:
        default = INTERRUPTED if _received in ([], [signal.SIGINT]) else TERMINATED
        words = "interrupted" if default == INTERRUPTED else "terminated"
        text = str(error) if isinstance(error, KeyboardInterrupt) else ""
        return text or words, getattr(error, "exit_code", default)
    if isinstance(error, Failed):
        return str(error), FAILED
    if isinstance(error, BadInput):
        return str(error), BAD_INPUT
    if isinstance(error, OSError):
        return _describe_os_error(error)
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
    location = _location(error)
    return (
        f"internal error, a fault of Litmus: {type(error).__name__}: {_first_line(error)}{location}; "
        "please report it with what --debug shows",
        FAILED,
    )


def _describe_os_error(error: OSError) -> tuple[str, int]:
    if error is _failure(sys.stdout):
        if error.errno == errno.EPIPE:
            return "", BROKEN_PIPE  # the reader of the output has stopped reading
        return f"standard output cannot be written: {error.strerror}", BAD_INPUT
    what = error.strerror or _first_line(error) or type(error).__name__
    files = [shown(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return f"{' -> '.join(files)}: {what}" if files else what, BAD_INPUT


def _first_line(error: BaseException) -> str:
    lines = message(error).strip().splitlines()
    return shown(lines[0].rstrip("."), quoted=False, limit=200) if lines else type(error).__name__


def _location(error: BaseException) -> str:
    """The file and line in this package that an exception comes from."""
    package = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(package):
            return f" ({Path(frame.filename).relative_to(package.parent)}, line {frame.lineno})"
    return ""


def _raise_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _received[:] = [number]
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a signal again that arrived during a destructor or callback, whose exceptions Python drops."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    number = _received[0] if _received else signal.SIGINT
    again = threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), number))  # sent at once, it would be dropped again
    again.daemon = True
    again.start()


def _open_streams() -> None:
    """Open closed standard streams on /dev/null, and make all of them replace what they cannot encode or decode."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)


def _safe(stream: Any, descriptor: int) -> Any:
    if stream is not None and (type(stream) is not io.TextIOWrapper or stream.fileno() != descriptor):
        return stream  # replaced by a test or an embedding program
    if stream is not None and sys.platform == "win32" and stream.isatty():
        stream.reconfigure(errors="replace")  # a console does not accept bytes
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
