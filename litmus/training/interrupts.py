"""Ctrl-C, SIGTERM and a closed terminal as a request to finish the step and save."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGHUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on every system


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop and did, after saving; the same call goes on where it stopped.

    `exit_code` is 130 after Ctrl-C, 143 after SIGTERM or SIGHUP.
    """

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + (signal.SIGTERM if number == _SIGHUP else number)


class StopRequest:
    """Whether the training was asked to stop: `signal` is the number of the signal that asked first, or None."""

    signal: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """What Ctrl-C, SIGTERM and SIGHUP ask for within this block; a second Ctrl-C or SIGTERM ends the process at once.

    A second SIGHUP does not: a terminal and its shell, closing, each send one. Under nohup it stays ignored.
    """
    requested = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield requested  # only the main thread may handle signals
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if _SIGHUP is not None and signal.getsignal(_SIGHUP) != signal.SIG_IGN:
        usual[_SIGHUP] = signal.getsignal(_SIGHUP)

    def request(number: int, frame: FrameType | None) -> None:
        requested.signal = requested.signal or number
        for other in usual:
            if other != _SIGHUP:
                signal.signal(other, usual[other])

    for number in usual:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
