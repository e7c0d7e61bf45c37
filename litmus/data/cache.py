"""The cache folder: what was fetched or computed once, found again by what it was made from."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from litmus.data.progress import Announce, readable_bytes
from litmus.errors import BadInput
from litmus.files import folder_written_atomically, write_atomically, writing

# Hashing a file this large takes long enough that its hash is worth remembering.
REMEMBER_HASH_FROM_BYTES = 64_000_000


def cache_folder() -> Path:
    """$LITMUS_CACHE, else $XDG_CACHE_HOME/litmus, else ~/.cache/litmus."""
    if own := os.environ.get("LITMUS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "litmus"


def built_once(target: Path, build: Callable[[Path], None], announce: Announce) -> Path:
    """Return the folder `target`, calling `build(temporary_folder)` first if it is not there yet.

    The folder appears whole or not at all. Of several processes that need it at once, one builds and the
    others wait; a lock left by a killed process does not block.
    """
    if target.is_dir():
        return target
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise BadInput(f"{target.parent} cannot be a cache folder; set LITMUS_CACHE to one that can") from error
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            announce(f"waiting for another process that is preparing {target}")
            lock.acquire()
        try:
            if not target.is_dir():
                for abandoned in target.parent.glob(f".{target.name}.*/"):
                    shutil.rmtree(abandoned, ignore_errors=True)
                with folder_written_atomically(target) as fresh:
                    build(fresh)
        finally:
            lock.release()
    return target


def content_hash(path: Path, announce: Announce) -> str:
    """Hex sha256 of a file's bytes; that of a large file is remembered until its size or modification time changes."""
    status = path.stat()
    if status.st_size < REMEMBER_HASH_FROM_BYTES:
        return _sha256(path)
    version = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    memory = cache_folder() / "hashes" / hashlib.sha256(version.encode()).hexdigest()
    if memory.is_file():
        return memory.read_text()
    announce(f"hashing {path} ({readable_bytes(status.st_size)})")
    digest = _sha256(path)
    write_atomically(memory, digest)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
