"""A time limit for untrusted code; its memory limit is in runtime.memory."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

TICK_SECONDS = 0.25

MAX_PATIENCE = 10.0


def patience() -> float:
    """Factor of all time limits now: runnable processes per core, from 1 to `MAX_PATIENCE`.

    On a machine with much other work correct code takes that much longer; on an idle one limits are as given.
    """
    if not hasattr(os, "getloadavg"):
        return 1.0
    return min(MAX_PATIENCE, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


class TimeLimitExceeded(BaseException):
    """Raised at the time limit; not an Exception, so that `except Exception` in the limited code cannot catch it."""


@contextlib.contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in the block after `seconds` x `patience()`, not counting suspended time.

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
        if (
            ticks * TICK_SECONDS >= seconds
            and ticks * TICK_SECONDS >= seconds * patience()
            and not _is_importing(frame)
        ):
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
