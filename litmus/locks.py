"""One process at a time in a folder: the second comer is told who is there, and the claim ends with its process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from litmus.errors import BadInput
from litmus.files import folder_written_atomically, hidden_prefix, remove_leftovers, writing
from litmus.yaml_json import parse_json

_held: set[int] = set()


@contextlib.contextmanager
def folder_lock(folder: Path, doing: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold `folder`, which need not be there yet, for this process alone; take it before anything in it is read.

    `doing` completes "another process is ... FOLDER", e.g. "training in". Where another process holds the folder,
    BadInput names that process and its host; with `wait` the sentence goes to `wait` instead, and the block begins
    when the folder is free. The system frees a lock when its process ends, however it ends: none is left behind.

    The lock is a hidden file next to the folder, so that it outlives a replacement of the folder; where the folder
    above cannot be written, the folder cannot be replaced, and the lock lies inside.
    """
    with writing(folder):
        handle, path = _opened(folder, wait)
    _held.add(handle)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name on it
            os.ftruncate(handle, 0)
            os.pwrite(handle, _myself(doing), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is still held: who opened this file meanwhile sees that it is gone
        _held.discard(handle)
        os.close(handle)


@contextlib.contextmanager
def folder_replaced(target: Path, kind: str) -> Iterator[Path]:
    """`folder_written_atomically` by one process at a time, after what killed ones left next to `target` is removed."""
    with folder_lock(target, "writing"):
        real = Path(os.path.realpath(target))
        remove_leftovers(real.parent, of=real.name)
        with folder_written_atomically(target, kind) as fresh:
            yield fresh


def lock_file(folder: Path) -> Path:
    """Where the lock of `folder` lies, whatever links lead there."""
    real = Path(os.path.realpath(folder))
    if real.is_dir() and not os.access(real.parent, os.W_OK):
        return real / ".lock"
    return real.parent / f"{hidden_prefix(real)}lock"


def _opened(folder: Path, wait: Callable[[str], None] | None) -> tuple[int, Path]:
    """The lock file of `folder`, open and locked."""
    path = lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    patient = False
    while True:
        # Opened as it is, never emptied: until the lock is ours, what it says is about its owner.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _still_there(handle, path):
                return handle, path
            os.close(handle)
        except OSError as error:
            owner = _owner(handle)
            os.close(handle)
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise BadInput(
                    f"{path.parent} is on a file system without locks, where two processes could destroy each "
                    f"other's work; choose a folder elsewhere"
                ) from None
            if not isinstance(error, BlockingIOError):
                raise
            sentence = f"another process is {owner.doing} {folder}{owner.name}"
            if wait is None:
                raise BadInput(f"{sentence}; wait for it, or choose another name") from None
            wait(f"{sentence}; waiting for it")
            patient = True


def _still_there(handle: int, path: Path) -> bool:
    """Whether the locked file is still the one at `path`: its last owner removed it when it was done."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


class _Owner(NamedTuple):
    doing: str
    name: str


def _myself(doing: str) -> bytes:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    name = f" (process {os.getpid()} on {socket.gethostname()}, since {since})"
    return json.dumps(_Owner(doing, name)).encode()


def _owner(handle: int) -> _Owner:
    """What the process that holds the lock wrote of itself."""
    for _ in range(20):  # it may not have written it yet
        with contextlib.suppress(ValueError, TypeError):
            doing, name = parse_json(os.pread(handle, 4096, 0), "a lock")
            return _Owner(str(doing), str(name))
        time.sleep(0.01)
    return _Owner("working in", "")


def _leave_to_parent() -> None:
    """A forked child gives up its copies of the locks, which would outlive the parent."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
