"""Processes that run a function of Litmus, forked from one that has imported it: a comparison starts one per trial.

Importing torch and what its optimizers need takes five seconds of processor time. A template process does that once,
runs nothing, and forks a child for each request. Where a fork is not safe (outside Linux) a child is begun anew.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import IO, Any, NoReturn

REQUEST = 1 << 17
"""Bytes that a request may have: the environment and the search path are in it."""

_SERVE = "from litmus.children import serve; serve()"

Stream = int | None
"""What a child's stderr is: None for that of this process, subprocess.PIPE or subprocess.DEVNULL."""


class Child:
    """A process of the template's; used as a subprocess.Popen, of which it has what is used here."""

    returncode: Any = None  # an int once it has ended

    def __init__(self, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any] | None, control: int) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._number, self._wanted = 0, 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, args=(control,), daemon=True).start()

    def _watch(self, control: int) -> None:
        """Take in the process's number and, when it ends, its exit code; without one the template was ended."""
        with os.fdopen(control, "rb") as told:
            begun = told.readline()
            with self._lock:
                self._number = int(begun or 0)
            self._send(self._wanted)
            ended = told.readline()
            with self._lock:  # from now on the number may be another process's
                self._number, self.returncode = 0, int(ended or -signal.SIGKILL)
        self._ended.set()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; subprocess.TimeoutExpired after `timeout` seconds."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("litmus", timeout or 0)
        return int(self.returncode)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        """Send a signal, at once or as soon as there is a process: the template may still be importing."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            self._wanted = number
            if self._number and number:
                os.kill(self._number, number)


Process = Child | subprocess.Popen[Any]


def start(
    module: str,
    function: str,
    *arguments: str,
    stderr: Stream = None,
    encoding: str | None = None,
    warm: Sequence[str] = (),
    lasts: bool = False,
) -> Process:
    """Begin a process that calls `module.function()` with `arguments` in sys.argv, its stdin and stdout being pipes.

    It leads a session of its own. `warm` names modules that it will import. `lasts` says that it ends by itself after
    this process; another one that was forked is killed then, one begun anew ends with its pipes.
    """
    path = [entry for entry in sys.path if entry]
    if sys.platform == "linux":
        request: dict[str, Any] = {
            "module": module,
            "function": function,
            "arguments": arguments,
            "environment": dict(os.environ),
        }
        request |= {"path": path, "folder": _folder(), "warm": list(warm), "lasts": lasts}
        with contextlib.suppress(OSError):
            return _forked(json.dumps(request).encode(), stderr, encoding)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        encoding=encoding,
        errors="replace" if encoding else None,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )


def answer(process: Process, given: bytes, timeout: float) -> bytes:
    """What the process writes to stdout when it reads `given`; TimeoutError, the process killed, after `timeout` s."""
    assert process.stdin is not None and process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(given)
        with process.stdout as stdout:
            found: bytes = stdout.read()
        process.wait()
    finally:
        timer.cancel()
        process.kill()
    if late.is_set():
        raise TimeoutError
    return found


def _folder() -> str | None:
    with contextlib.suppress(OSError):  # it may have been removed
        return os.getcwd()
    return None


def _forked(request: bytes, stderr: Stream, encoding: str | None) -> Child:
    """A child of the template; OSError where there can be none."""
    if len(request) > REQUEST:
        raise OSError("the request is too long")
    theirs: list[int] = []
    ours: list[int] = []
    try:
        for mine in (1, 0, 0):  # stdin, stdout and the control, from which its number and exit code are read
            pair = os.pipe()
            theirs.append(pair[1 - mine])
            ours.append(pair[mine])
        if stderr == subprocess.PIPE:
            pair = os.pipe()
            theirs.insert(2, pair[1])
            ours.insert(2, pair[0])
        elif stderr == subprocess.DEVNULL:
            theirs.insert(2, os.open(os.devnull, os.O_WRONLY))
        else:
            theirs.insert(2, os.dup(2))
        socket.send_fds(_Template.here(), [request], theirs)
    except BaseException:
        for descriptor in ours:
            os.close(descriptor)
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    modes = ["wb", "rb", "rb"][: len(ours) - 1]
    streams: list[IO[Any]] = [os.fdopen(number, mode) for number, mode in zip(ours, modes, strict=False)]
    if encoding:
        streams = [io.TextIOWrapper(stream, encoding=encoding, errors="replace") for stream in streams]
    return Child(streams[0], streams[1], streams[2] if len(streams) > 2 else None, ours[-1])


class _Template:
    """The template of this process; one that forks has none of its own yet."""

    _lock = threading.Lock()
    _owner = 0
    _process: subprocess.Popen[bytes]
    _socket: socket.socket

    @classmethod
    def here(cls) -> socket.socket:
        """Where requests are sent; a template that was ended is replaced."""
        with cls._lock:
            if cls._owner != os.getpid() or cls._process.poll() is not None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    cls._process = subprocess.Popen(
                        [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,  # a Ctrl-C in the terminal is this process's to pass on
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                    )
                if cls._owner != os.getpid():
                    atexit.register(cls.end)
                cls._owner, cls._socket = os.getpid(), ours
            return cls._socket

    @classmethod
    def end(cls) -> None:
        """End the template; its children go on."""
        if cls._owner == os.getpid():
            cls._process.kill()
            cls._process.wait()


def serve() -> None:
    """The template: fork a child for each request on the socket named on the command line, until that is closed."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are nobody's to wait for
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST, 4)
        if not message:
            return
        request = json.loads(message)
        for module in (request["module"], *request["warm"]):
            with contextlib.suppress(Exception):  # a child that can't import it either says so
                importlib.import_module(module)
        if os.fork() == 0:
            requests.close()
            _keep(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Fork the child, wait for it and tell its number and exit code; kill it if nobody is left to be told."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        *streams, control = descriptors
        child = os.fork()
        if child == 0:
            os.close(control)
            _work(request, streams)
        for descriptor in streams:
            os.close(descriptor)
        os.write(control, b"%d\n" % child)
        ended = os.pidfd_open(child)
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.register(control, 0)  # which reports an error when its other end is closed
        if ended not in [descriptor for descriptor, _ in waiting.poll()] and not request["lasts"]:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(control, b"%d\n" % code)
    finally:
        os._exit(0)


def _work(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """The child: make this process what one begun anew would be, call the function and end as an interpreter does."""
    code = 1
    try:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.setsid()
        if request["folder"] is not None:
            os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[:] = request["path"]
        sys.argv = ["litmus", *request["arguments"]]
        getattr(importlib.import_module(request["module"]), request["function"])()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # an interpreter waits for its threads
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code & 0xFF)
