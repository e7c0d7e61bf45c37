"""A time limit on code that may never return."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class TimeUp(BaseException):
    """The time limit passed; not an Exception, so that no `except Exception` on the way can swallow it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block once `seconds` have passed.

    Works by a timer signal, so only in the main thread of a Unix process and between two Python instructions; code
    that never comes back from a C call is stopped from outside (see isolation.py). Elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not importing(frame):
            raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    # It keeps ringing: code that catches everything once would otherwise go on for ever.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.25)
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
