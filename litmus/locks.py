"""Locks on folders: one process at a time works in a folder; another one gets an error that names the first."""

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
from litmus.files import folder_written_atomically, hidden_prefix, real_path, remove_leftovers, writing
from litmus.yaml_json import parse_json

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


@contextlib.contextmanager
def folder_lock(folder: Path, doing: str, *, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Lock `folder`, which need not exist yet, for this process; take the lock before reading anything in it.

    `doing` completes "another process is ... FOLDER", e.g. "training in". If another process holds the lock, BadInput
    names that process and its host; with `on_wait` the sentence is passed to `on_wait` instead, and the block begins
    when the lock is free. The operating system releases a lock when its process ends, also if it is killed.

    The lock is a hidden file next to the folder, so that replacing the folder keeps it. If the parent folder is not
    writable, the folder cannot be replaced, and the lock file is inside it.
    """
    with writing(folder):
        handle, path = _acquire(folder, on_wait)
    _held.add(handle)
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock works without an owner record
            os.ftruncate(handle, 0)
            os.pwrite(handle, _owner_record(doing), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while still locked: a process that has opened this file sees that it is gone
        _held.discard(handle)
        os.close(handle)


@contextlib.contextmanager
def folder_replaced(target: Path, kind: str) -> Iterator[Path]:
    """`folder_written_atomically` under a lock; unfinished writes of killed processes to `target` are removed first."""
    with folder_lock(target, "writing"):
        real = real_path(target)
        remove_leftovers(real.parent, of=real.name)
        with folder_written_atomically(target, kind) as staging:
            yield staging


def lock_file(folder: Path) -> Path:
    """The path of the lock file of `folder`; links are resolved."""
    real = real_path(folder)
    if real.is_dir() and not os.access(real.parent, os.W_OK):
        return real / ".lock"
    return real.parent / f"{hidden_prefix(real)}lock"


def _acquire(folder: Path, on_wait: Callable[[str], None] | None) -> tuple[int, Path]:
    """The descriptor and path of the lock file of `folder`, opened and locked."""
    path = lock_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    blocking = False
    while True:
        # Do not truncate: until the lock is acquired, the content describes its owner.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            if on_wait is None:
                raise BadInput(f"{sentence}; wait for it, or choose another name") from None
            on_wait(f"{sentence}; waiting for it")
            blocking = True


def _still_there(handle: int, path: Path) -> bool:
    """Whether the locked file is still the one at `path`; its previous owner may have deleted it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


class _Owner(NamedTuple):
    doing: str
    name: str


def _owner_record(doing: str) -> bytes:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    name = f" (process {os.getpid()} on {socket.gethostname()}, since {since})"
    return json.dumps(_Owner(doing, name)).encode()


def _owner(handle: int) -> _Owner:
    """The record that the owner of the lock wrote into it."""
    for _ in range(20):  # it may not be written yet
        with contextlib.suppress(ValueError, TypeError):
            doing, name = parse_json(os.pread(handle, 4096, 0), "a lock")
            return _Owner(str(doing), str(name))
        time.sleep(0.01)
    return _Owner("working in", "")


def _close_inherited() -> None:
    """Close the lock descriptors in a forked child, which would keep the locks after the parent has ended."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)
