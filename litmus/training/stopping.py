"""When a training stops before its budget is used: on a signal, or when its validation loss no longer falls."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

_SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on every system


class Interrupted(KeyboardInterrupt):
    """The training was stopped by a signal and saved; the same call resumes it.

    `exit_code` is 130 after Ctrl-C, 143 after SIGTERM or SIGHUP.
    """

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + (signal.SIGTERM if number == _SIGHUP else number)


class StopRequest:
    """Whether the training is to stop: `signal` is the number of the first signal received, or None."""

    signal: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch Ctrl-C, SIGTERM and SIGHUP as a request in this block; a second Ctrl-C or SIGTERM ends the process.

    A second SIGHUP does not, as a closing terminal and its shell each send one. Under nohup SIGHUP stays ignored.
    """
    requested = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # only the main thread may handle signals
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if _SIGHUP is not None and signal.getsignal(_SIGHUP) != signal.SIG_IGN:
        handlers[_SIGHUP] = signal.getsignal(_SIGHUP)

    def request(number: int, frame: FrameType | None) -> None:
        requested.signal = requested.signal or number
        for other in handlers:
            if other != _SIGHUP:
                signal.signal(other, handlers[other])

    for number in handlers:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def no_longer_improves(losses: Sequence[float], patience: int | None) -> bool:
    """Whether none of the last `patience` validation losses is below all those before them."""
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
