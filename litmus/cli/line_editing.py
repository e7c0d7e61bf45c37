"""Line editing and history for what is typed into a chat, where the terminal and Python have them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from litmus.model.trust import state_folder

MOST_LINES = 1000


def history_file() -> Path:
    """Where typed lines are kept, in the user's state folder."""
    return state_folder() / "chat_history"


@contextlib.contextmanager
def line_editing() -> Iterator[None]:
    """Within this block `input` has the arrow keys and the lines of earlier chats; nothing is kept of what is piped."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    try:
        import readline  # importing it is what gives `input` its line editing
    except ImportError:  # not on Windows
        yield
        return
    with contextlib.suppress(OSError, RuntimeError):
        readline.read_history_file(history_file())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):  # a chat never fails for its history
            history_file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.set_history_length(MOST_LINES)
            readline.write_history_file(history_file())
            history_file().chmod(0o600)
