"""Atomic writes: a file or folder is either the old one or the whole new one, whenever the process dies."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from litmus.errors import BadInput


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence; whatever was saved before stays as it was."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"the disk is full: {target} was not written; everything saved earlier is intact") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise BadInput(f"{target} cannot be written: {error.strerror}; choose a folder you may write to") from error
        raise


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace `target` by `content` in one step (temporary file beside it, fsync, rename)."""
    data = content.encode() if isinstance(content, str) else content
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _as_umask_says(Path(name))
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def folder_written_atomically(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` when the block ends without an error.

    An existing `target` is replaced; on an error the temporary folder is removed and `target` is untouched. A kill
    between the two renames of a replacement leaves both folders under hidden names beside where `target` stood.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield fresh
            for path in fresh.rglob("*"):
                _as_umask_says(path)
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            _as_umask_says(fresh)
            if target.exists():
                old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
                os.replace(target, old)
                os.replace(fresh, target)
                shutil.rmtree(old)
            else:
                os.replace(fresh, target)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def _as_umask_says(path: Path) -> None:
    """Give a file or folder the mode that any program's would have; temporary ones are made for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
