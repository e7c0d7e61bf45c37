"""Atomic writes: a file or folder is either the old one or the whole new one, whenever the process dies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from litmus.errors import BadInput
from litmus.manifests import TEMPORARY, check_replaceable, write_manifest

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EROFS, errno.EPERM}
_UNFIT = {
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EBUSY, errno.EXDEV, errno.ENXIO, errno.EPIPE, errno.EFBIG,
}  # fmt: skip


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn a full disk, or a place that cannot be written, into one sentence; what was saved before stays as it was."""
    if "\0" in str(target):
        raise BadInput(f"{target} cannot be written: no name of a file or folder holds a NUL character")
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        code = _system_code(error)
        if code in _FULL:
            raise BadInput(f"the disk is full: {target} was not written; everything saved earlier is intact") from error
        if not _concerns(error, target):
            raise
        if code in _FORBIDDEN:
            raise BadInput(
                f"{target} cannot be written: {os.strerror(code)}; choose a folder you may write to"
            ) from error
        if code in _UNFIT:
            raise BadInput(f"{target} cannot be written: {os.strerror(code)}; choose another place") from error
        raise


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a file that the system does not let us read into one sentence."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace `target` by `content` in one step (temporary file next to it, fsync, rename).

    A link stays, and what it points to is replaced. What is no file (a device, a pipe, this process's own output) is
    written to and stays what it is.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(target):
        stream = _stream(target)
        if stream is not None:
            with open(stream, "wb", buffering=0) as out:
                while data:
                    data = data[out.write(data) :]
            return
        real = Path(os.path.realpath(target))
        real.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=real.parent, prefix=hidden_prefix(real), suffix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            mode = real.stat().st_mode & 0o777 if real.is_file() else _usual_mode(0o666)
            os.chmod(name, mode)
            os.replace(name, real)
            _settle(real.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def folder_written_atomically(target: Path, kind: str | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` when the block ends without an error.

    With `kind`, which says in two words what it is ("saved model"), the folder gets a manifest of its files; an
    existing `target` is replaced where it is empty, or of the same kind and exactly as it was written. BadInput where
    it holds anything else, before the block begins. Without `kind` only an empty `target` is replaced. A link stays,
    and what it points to is replaced. On an error the temporary folder is removed and `target` is untouched.
    """
    real = Path(os.path.realpath(target))
    with writing(target):
        check_replaceable(real, kind, str(target))
        real.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=real.parent, prefix=hidden_prefix(real), suffix=TEMPORARY))
        try:
            yield fresh
            if kind is not None:
                write_manifest(fresh, kind)
            for path in [*sorted(fresh.rglob("*"), reverse=True), fresh]:
                _settle(path)
                path.chmod(_usual_mode(0o777 if path.is_dir() else 0o666))
            if real.is_dir() and any(real.iterdir()):
                check_replaceable(real, kind, str(target))
                _exchange(fresh, real)
                shutil.rmtree(fresh, ignore_errors=True)
            else:
                os.replace(fresh, real)
            _settle(real.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def remove_folder(folder: Path) -> None:
    """Take a folder away in one step: a kill leaves all of it, or a leftover that is not taken for it."""
    doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=hidden_prefix(folder), suffix=TEMPORARY))
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path, of: str | None = None) -> None:
    """Remove what killed processes left under way in `folder`: of the target named `of`, or of all.

    Only for the one process that may write there now.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        start, dot, _ = path.name.removesuffix(TEMPORARY).rpartition(".")
        if path.name.endswith(TEMPORARY) and dot and (of is None or start + dot == hidden_prefix(folder / of)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def hidden_prefix(target: Path) -> str:
    """How the names of hidden files next to `target` begin; with an ending they fit into the 255 bytes of a name."""
    fits = len(os.fsencode(target.name)) <= 200
    return f".{target.name if fits else hashlib.sha256(os.fsencode(target.name)).hexdigest()}."


def _system_code(error: Exception) -> int:
    """The system's error number; 0 where there is none. Libraries written in Rust tell it in words only."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0


def _concerns(error: Exception, target: Path) -> bool:
    """Whether an error is about writing `target`, and not about another file that was read meanwhile."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes):
        return True
    path, real = Path(os.path.realpath(os.fsdecode(name))), Path(os.path.realpath(target))
    under_way = any(part.endswith(TEMPORARY) for part in path.parts)
    lock = path == real.with_name(f"{hidden_prefix(real)}lock")
    return under_way or lock or real.is_relative_to(path) or path.is_relative_to(real)


def _stream(target: Path) -> int | None:
    """An open descriptor where `target` is no file that could be replaced: a pipe, /dev/null, this process's output."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    for number, output in ((1, sys.stdout), (2, sys.stderr)):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(os.fstat(number), status):
                output.flush()
                return os.dup(number)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return None
    if stat.S_ISBLK(status.st_mode):
        raise BadInput(f"{target} is a disk; name a file")
    handle = os.open(target, os.O_WRONLY | os.O_NONBLOCK)  # a pipe that nobody reads is an error and not a wait
    os.set_blocking(handle, True)
    return handle


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places: in one step on Linux, elsewhere by renames that keep both under some name."""
    import ctypes

    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap is not None and swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return
    aside = Path(tempfile.mkdtemp(dir=other.parent, prefix=f"{hidden_prefix(other)}old."))
    os.replace(other, aside)
    os.replace(one, other)
    os.replace(aside, one)


def _usual_mode(mode: int) -> int:
    """The mode that any program's file or folder would have; temporary ones are made for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask


def _settle(path: Path) -> None:
    """Return once a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems write names at once and refuse
            raise
    finally:
        os.close(handle)
