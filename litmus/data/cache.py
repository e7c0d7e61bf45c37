"""The cache folder: what was fetched or computed once, found again by what it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from litmus.data.progress import Announce, readable_bytes
from litmus.errors import BadInput, shown
from litmus.files import folder_written_atomically, write_atomically, writing

# Hashing a file this large takes long enough that its hash is worth remembering.
REMEMBER_HASH_FROM_BYTES = 64_000_000
DIGESTS = ".digests.json"
"""The file of an entry that holds the sha256 of each file that was made, by which damage is noticed."""
_BEING_BUILT = re.compile(r"\.(?P<entry>.+?)(\.old)?\.[a-z0-9_]{6,8}")
"""The temporary folders of `folder_written_atomically`."""


def cache_folder() -> Path:
    """$LITMUS_CACHE, else $XDG_CACHE_HOME/litmus, else ~/.cache/litmus; an empty variable counts as none."""
    try:
        if own := os.environ.get("LITMUS_CACHE"):
            return Path(own).expanduser().absolute()
        return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "litmus").absolute()
    except (RuntimeError, OSError) as error:
        raise BadInput(f"there is no cache folder ({error}); set LITMUS_CACHE to one that can be written") from error


def built_once(target: Path, build: Callable[[Path], None], announce: Announce) -> Path:
    """Return the folder `target`, calling `build(temporary_folder)` first if it is not there yet or is damaged.

    The folder appears whole or not at all. Of several processes that need it at once, one builds and the
    others wait; a lock left by a killed process does not block, and what it left is removed.
    """
    with _usable(target):
        if _damage(target, announce) == "":
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, announce):
            damage = _damage(target, announce)
            if damage == "":
                return target
            if damage is not None:
                announce(f"{shown(target)} is damaged ({damage}); it is made again")
                _remove(target)
            _remove_abandoned(target)
            with folder_written_atomically(target) as fresh:
                build(fresh)
                digests = {path.name: _sha256(path) for path in fresh.iterdir()}
                (fresh / DIGESTS).write_text(json.dumps(digests))
    return target


def content_hash(path: Path, announce: Announce) -> str:
    """Hex sha256 of a file's bytes; that of a large file is remembered until its size or modification time changes."""
    status = path.stat()
    if status.st_size < REMEMBER_HASH_FROM_BYTES:
        return _sha256(path)
    version = os.fsencode(path.resolve()) + f"\n{status.st_size}\n{status.st_mtime_ns}".encode()
    memory = cache_folder() / "hashes" / hashlib.sha256(version).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", remembered := memory.read_text()):
            return remembered
    announce(f"hashing {shown(path)} ({readable_bytes(status.st_size)})")
    digest = _sha256(path)
    with contextlib.suppress(OSError, BadInput):  # a cache that cannot be written remembers nothing, and that is all
        write_atomically(memory, digest)
    return digest


@contextlib.contextmanager
def _usable(target: Path) -> Iterator[None]:
    """Turn a cache that cannot be used into one sentence."""
    try:
        with writing(target):
            yield
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(
            f"{shown(target.parent)} cannot be a cache folder: {reason}; set LITMUS_CACHE to one that can"
        ) from error


@contextlib.contextmanager
def _locked(target: Path, announce: Announce) -> Iterator[None]:
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        announce(f"waiting for another process that is preparing {shown(target)}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _damage(entry: Path, announce: Announce) -> str | None:
    """What is wrong with an entry of the cache, "" if nothing is, None if it is not there."""
    if not os.path.lexists(entry):
        return None
    try:
        digests = json.loads((entry / DIGESTS).read_text())
        if not digests:
            return f"{DIGESTS} is empty"
        for name, digest in digests.items():
            if content_hash(entry / name, announce) != digest:
                return f"{shown(name)} is not what was written"
        return ""
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return shown(f"{type(error).__name__}: {error}")


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _remove_abandoned(target: Path) -> None:
    """Remove what killed builds of this entry and of its neighbours left; nothing that another process still builds.

    Only a folder named as a build names it, beside the lock of that build, is one.
    """
    for folder in list(target.parent.iterdir()):
        match = _BEING_BUILT.fullmatch(folder.name)
        if match is None or folder.is_symlink() or not folder.is_dir():
            continue
        lock = target.parent / f".{match['entry']}.lock"
        if match["entry"] == target.name:
            shutil.rmtree(folder, ignore_errors=True)
        elif lock.is_file():
            with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
