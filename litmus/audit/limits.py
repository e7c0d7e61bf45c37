"""A time limit on code that may never return."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

TICK = 0.25


class TimeUp(BaseException):
    """The time limit passed; not an Exception, so that no `except Exception` on the way can swallow it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block once it has run for `seconds`; time in which the process stands still does not count.

    Works by a timer signal, so only in the main thread of a Unix process and between two Python instructions; code
    that never comes back from a C call is stopped from outside (see isolation.py). Elsewhere there is no limit.
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

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def importing(frame: FrameType | None) -> bool:
    """Whether a module is just being imported; cut short, it would stay half there for the rest of the process."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
