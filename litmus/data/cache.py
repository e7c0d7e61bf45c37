"""The cache folder: downloads and prepared data, keyed by the content they were made from."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from litmus.data.messages import Log, printable, readable_bytes
from litmus.errors import BadInput
from litmus.files import (
    TEMP_SUFFIX,
    Damaged,
    checksum,
    folder_written_atomically,
    read_manifest,
    read_regular_file,
    real_path,
    remove_folder,
    remove_leftovers,
    sha256,
    write_atomically,
)
from litmus.locks import folder_lock

# Hashing smaller files is fast enough to repeat.
MIN_BYTES_TO_CACHE_HASH = 64_000_000
KIND = "cache entry"


def cache_folder() -> Path:
    """$LITMUS_CACHE, else $XDG_CACHE_HOME/litmus, else ~/.cache/litmus; an empty variable counts as none."""
    try:
        if own := os.environ.get("LITMUS_CACHE"):
            return Path(own).expanduser().absolute()
        return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "litmus").absolute()
    except (RuntimeError, OSError) as error:
        raise BadInput(f"there is no cache folder ({error}); set LITMUS_CACHE to one that can be written") from error


def build_once(target: Path, build: Callable[[Path], None], log: Log) -> Path:
    """Return the folder `target`; if it is missing or damaged, call `build(temporary_folder)` first.

    The folder is created atomically. If several processes need it at once, one builds it and the others wait. A lock
    of a killed process does not block, and its temporary files are removed.
    """
    with _usable(target.parent):
        if _damage(target, log) == "":
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "it cannot be written")
    with folder_lock(target, "preparing", on_wait=log):
        damage = _damage(target, log)
        if damage == "":
            return target
        if damage is not None:
            log(f"{printable(target)} is damaged ({damage}); it is made again")
            _remove(target)
        _remove_abandoned(target)
        with folder_written_atomically(target, KIND) as fresh:
            build(fresh)
    return target


def content_hash(path: Path, log: Log) -> str:
    """Hex sha256 of a file; that of a large file is cached until its size or modification time changes."""
    status = path.stat()
    if status.st_size < MIN_BYTES_TO_CACHE_HASH:
        return checksum(path).sha256
    version = os.fsencode(real_path(path)) + f"\n{status.st_size}\n{status.st_mtime_ns}".encode()
    memory = cache_folder() / "hashes" / sha256(version)
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", remembered := read_regular_file(memory).decode()):
            return remembered
    log(f"hashing {printable(path)} ({readable_bytes(status.st_size)})")
    digest = checksum(path).sha256
    with contextlib.suppress(OSError, BadInput):  # without a writable cache the hash is computed each time
        write_atomically(memory, digest)
    return digest


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Convert OSError into BadInput about the cache folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(
            f"{printable(folder)} cannot be a cache folder: {reason}; set LITMUS_CACHE to one that can"
        ) from error


def _damage(entry: Path, log: Log) -> str | None:
    """How a cache entry is damaged; "" if it is intact, None if it does not exist."""
    if not os.path.lexists(entry):
        return None
    try:
        manifest = read_manifest(entry)
        for name, written in manifest.files.items():
            if content_hash(entry / name, log) != written.sha256:
                return f"{printable(name)} is not what was written"
        return "" if manifest.kind == KIND and manifest.files else "its manifest is another's"
    except Damaged as damage:
        return str(damage)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        return f"{printable(os.path.basename(error.filename or entry))}: {error.strerror}"


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        remove_folder(entry)
    else:
        entry.unlink()


def _remove_abandoned(target: Path) -> None:
    """Remove temporary files of killed builds in this folder, but not those of a build that is still running."""
    remove_leftovers(target.parent, of=target.name)
    left = {path.name.removesuffix(TEMP_SUFFIX) for path in target.parent.iterdir() if path.name.endswith(TEMP_SUFFIX)}
    for neighbour in {name.rpartition(".")[0].removeprefix(".") for name in left} - {"", target.name}:
        with contextlib.suppress(BadInput, OSError), folder_lock(target.parent / neighbour, "clearing"):
            remove_leftovers(target.parent, of=neighbour)
