"""Fork server: starts processes that call a Litmus function, forked from a server that has imported torch.

Importing torch and its optimizers takes five seconds of processor time. The server imports them once, runs nothing
else, and forks a child per request. Outside Linux, where forking is not safe, each child is a new interpreter.
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

MAX_REQUEST_BYTES = 1 << 17
"""A request holds the environment and the module search path."""

_SERVE = "from litmus.fork_server import serve; serve()"

Stream = int | None
"""A child's stderr: None (inherited), subprocess.PIPE or subprocess.DEVNULL."""


class Child:
    """A process forked by the server, with the part of subprocess.Popen's interface that is used here."""

    returncode: Any = None  # an int after the process has ended

    def __init__(self, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any] | None, control: int) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._pid, self._pending_signal = 0, 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._read_status, args=(control,), daemon=True).start()

    def _read_status(self, control: int) -> None:
        """Read the process id and, when the process ends, its exit code; without one the server was killed."""
        with os.fdopen(control, "rb") as status:
            pid = status.readline()
            with self._lock:
                self._pid = int(pid or 0)
            self._send(self._pending_signal)
            code = status.readline()
            with self._lock:  # the id may be reused by another process
                self._pid, self.returncode = 0, int(code or -signal.SIGKILL)
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
        """Send a signal now, or as soon as the process exists: the server may still be importing."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            self._pending_signal = number
            if self._pid and number:
                os.kill(self._pid, number)


Process = Child | subprocess.Popen[Any]


def start_process(
    module: str,
    function: str,
    *arguments: str,
    stderr: Stream = None,
    encoding: str | None = None,
    preload: Sequence[str] = (),
    outlives_parent: bool = False,
) -> Process:
    """Start a process that calls `module.function()` with `arguments` in sys.argv; stdin and stdout are pipes.

    The process leads its own session. `preload` names further modules that the server imports before forking. When
    this process ends, a forked child is killed unless `outlives_parent`; a new interpreter sees its pipes close.
    """
    path = [entry for entry in sys.path if entry]
    if sys.platform == "linux":
        request: dict[str, Any] = {
            "module": module,
            "function": function,
            "arguments": arguments,
            "environment": dict(os.environ),
        }
        request |= {
            "path": path,
            "folder": _working_folder(),
            "preload": [module, *preload],
            "outlives_parent": outlives_parent,
        }
        with contextlib.suppress(OSError):
            return _fork_child(json.dumps(request).encode(), stderr, encoding)
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


def preload(*modules: str) -> None:
    """Let the server import modules that processes will need, while this process goes on."""
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            _Server.connection().send(json.dumps({"preload": modules}).encode())


def communicate(process: Process, data: bytes, timeout: float) -> bytes:
    """Write `data` to the process and return its stdout; after `timeout` seconds kill it and raise TimeoutError."""
    assert process.stdin is not None and process.stdout is not None
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        process.kill()

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(data)
        with process.stdout as stdout:
            output: bytes = stdout.read()
        process.wait()
    finally:
        timer.cancel()
        process.kill()
    if timed_out.is_set():
        raise TimeoutError
    return output


def _working_folder() -> str | None:
    with contextlib.suppress(OSError):  # the folder may have been deleted
        return os.getcwd()
    return None


def _fork_child(request: bytes, stderr: Stream, encoding: str | None) -> Child:
    """A child forked by the server; OSError if the server cannot be used."""
    if len(request) > MAX_REQUEST_BYTES:
        raise OSError("the request is too long")
    theirs: list[int] = []
    ours: list[int] = []
    try:
        for mine in (1, 0, 0):  # stdin, stdout, and the control pipe that carries process id and exit code
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
        socket.send_fds(_Server.connection(), [request], theirs)
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


class _Server:
    """The fork server of this process; after a fork, the child starts one of its own."""

    _lock = threading.Lock()
    _owner = 0
    _process: subprocess.Popen[bytes]
    _socket: socket.socket

    @classmethod
    def connection(cls) -> socket.socket:
        """The socket for requests; a server that was killed is replaced."""
        with cls._lock:
            if cls._owner != os.getpid() or cls._process.poll() is not None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    cls._process = subprocess.Popen(
                        [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,  # Ctrl-C goes to this process only, which passes it on
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                    )
                if cls._owner != os.getpid():
                    atexit.register(cls.end)
                cls._owner, cls._socket = os.getpid(), ours
            return cls._socket

    @classmethod
    def end(cls) -> None:
        """Kill the server; its children keep running."""
        if cls._owner == os.getpid():
            cls._process.kill()
            cls._process.wait()


def serve() -> None:
    """The server: fork a child for each request on the socket given on the command line, until that is closed."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are not waited for
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 4)
        if not message:
            return
        request = json.loads(message)
        for module in request["preload"]:
            with contextlib.suppress(Exception):  # the child will report an import error
                importlib.import_module(module)
        if descriptors and os.fork() == 0:
            requests.close()
            _supervise(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Fork the child, report its id and exit code, and kill it if the process that requested it ends."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        *streams, control = descriptors
        child = os.fork()
        if child == 0:
            os.close(control)
            _run_child(request, streams)
        for descriptor in streams:
            os.close(descriptor)
        os.write(control, b"%d\n" % child)
        child_ended = os.pidfd_open(child)
        poll = select.poll()
        poll.register(child_ended, select.POLLIN)
        poll.register(control, 0)  # an error event means that the other end is closed
        if child_ended not in [descriptor for descriptor, _ in poll.poll()] and not request["outlives_parent"]:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(control, b"%d\n" % code)
    finally:
        os._exit(0)


def _run_child(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """The child: set up the process like a new interpreter, call the function, and exit like an interpreter."""
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
