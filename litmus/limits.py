"""Time and memory limits for untrusted code, which may run forever or allocate without bound."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

TICK_SECONDS = 0.25


class TimeLimitExceeded(BaseException):
    """Raised at the time limit; not an Exception, so that `except Exception` in the limited code cannot catch it."""


@contextlib.contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in the block after `seconds`, not counting time in which the process is suspended.

    Uses a timer signal, so it works only in the main thread of a Unix process and between two Python instructions: code
    stuck in a C call must be killed from another process, as the audit does. In other threads and systems there is no
    limit. Limits may be nested.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    ticks = 0

    def tick(number: int, frame: FrameType | None) -> None:
        nonlocal ticks
        ticks += 1
        # Raise at every tick from then on, as the code may catch it once.
        if ticks * TICK_SECONDS >= seconds and not _is_importing(frame):
            raise TimeLimitExceeded
        if callable(before):
            before(number, frame)

    before = signal.signal(signal.SIGALRM, tick)
    timer = signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported; interrupting that would leave it half initialized."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def limit_memory() -> None:
    """Limit this process to three quarters of the memory that is free now; further allocations fail. Linux only."""
    free = [_read_bytes("/proc/meminfo", "MemAvailable"), _free_in_cgroup()]
    known = [amount for amount in free if amount is not None]
    used = _read_bytes("/proc/self/status", "VmData")
    if not known or used is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + min(known) * 3 // 4
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _read_bytes(file: str, key: str) -> int | None:
    """The size in bytes from a line such as "MemAvailable:  512 kB"."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def _free_in_cgroup() -> int | None:
    """The memory in bytes left to this container (control group)."""
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    return None
