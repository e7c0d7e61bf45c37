"""Limits of time and memory for code that may never return or never have enough."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

TICK = 0.25


class TimeUp(BaseException):
    """The time limit passed; not an Exception, so that no `except Exception` on the way can swallow it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block once it has run for `seconds`; time in which the process stands still does not count.

    Works by a timer signal, so only in the main thread of a Unix process and between two Python instructions; code
    that never comes back from a C call can be stopped from outside only, as the audit does. Elsewhere there is no
    limit. Limits may be nested: each holds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    ticks = 0

    def tick(number: int, frame: FrameType | None) -> None:
        nonlocal ticks
        ticks += 1
        # From then on at every tick: code that catches everything once would otherwise go on for ever.
        if ticks * TICK >= seconds and not importing(frame):
            raise TimeUp
        if callable(before):
            before(number, frame)

    before = signal.signal(signal.SIGALRM, tick)
    timer = signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def importing(frame: FrameType | None) -> bool:
    """Whether a module is just being imported; cut short, it would stay half there for the rest of the process."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def limit_memory() -> None:
    """Let this process take three quarters of the memory that is free now: what it asks beyond that, it is refused.

    So that code without end fails before the machine does. Only where Linux says how much is free.
    """
    free = [_kilobytes("/proc/meminfo", "MemAvailable"), _free_in_group()]
    known = [amount for amount in free if amount is not None]
    held = _kilobytes("/proc/self/status", "VmData")
    if not known or held is None:
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + min(known) * 3 // 4
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def _kilobytes(file: str, key: str) -> int | None:
    """The bytes that a line such as "MemAvailable:  512 kB" stands for."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def _free_in_group() -> int | None:
    """What is left of the memory that a container may have."""
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    return None
