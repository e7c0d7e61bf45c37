"""Files on disk: reads that cannot block, manifests with checksums, and atomic writes of files and folders.

Atomic: whenever the process dies, a file or folder is either the old one or the complete new one.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.errors import BadInput, shown

MANIFEST = "manifest.json"
TEMP_SUFFIX = ".litmus-tmp"
"""Suffix of the hidden temporary files and folders of unfinished writes; a killed process may leave some behind."""
IGNORED_FILES = (
    ".DS_Store", "._*", ".nfs*", ".fuse_hidden*", ".directory", "Thumbs.db", "desktop.ini", f"*{TEMP_SUFFIX}",
)  # fmt: skip
"""Patterns of files that operating systems add to folders, and of unfinished writes: never a user's work."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EROFS, errno.EPERM}
_UNFIT = {
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EBUSY, errno.EXDEV, errno.ENXIO, errno.EPIPE, errno.EFBIG,
}  # fmt: skip


def read_regular_file(path: Path) -> bytes:
    """The bytes of a regular file; OSError for anything else, as reading a pipe or device may block or never end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        with open(handle, "rb") as file:
            return file.read()
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


class Checksum(BaseModel):
    """Size and sha256 of a file, to detect later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The kind of a folder ("checkpoint", "saved model") and the checksum of each file in it, by relative path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    files: dict[str, Checksum]


class Damaged(Exception):
    """A folder differs from its manifest; the message says how."""


def write_manifest(folder: Path, kind: str) -> None:
    """Write the manifest of all files that are now in `folder`."""
    files = {name: checksum(folder / name) for name in sorted(file_names(folder))}
    text = Manifest(kind=kind, files=files).model_dump_json(indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; Damaged when it cannot be read."""
    try:
        return Manifest.model_validate_json(read_regular_file(folder / MANIFEST))
    except PermissionError:
        raise
    except (OSError, ValidationError) as error:
        raise Damaged(f"{MANIFEST} cannot be read") from error


def verify(folder: Path, files: Mapping[str, Checksum]) -> None:
    """Raise Damaged, naming the first file that is missing or differs from its checksum."""
    for name, written in files.items():
        if fault := _fault(folder / name, written):
            raise Damaged(f"{name} {fault}")


def check_replaceable(folder: Path, kind: str | None, name: str) -> None:
    """BadInput unless `folder` is absent, empty, or of this kind and unchanged since Litmus wrote it.

    `name` is what the message calls the folder. IGNORED_FILES do not count and are replaced with the rest.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise BadInput(f"{name} is not a folder; choose another name")
    found = sorted(file_names(folder))
    if not found:
        return
    if kind is None or MANIFEST not in found:
        wanted = f"no {kind} that Litmus wrote (it has no {MANIFEST})" if kind else "not empty"
        raise BadInput(f"{name} is {wanted}: it holds {_some(found)}; choose another folder, or delete this one")
    try:
        manifest = read_manifest(folder)
    except Damaged as damage:
        raise BadInput(f"{name}: {damage}; choose another folder, or delete this one") from None
    if manifest.kind != kind:
        raise BadInput(f"{name} holds a {shown(manifest.kind, quoted=False)} and no {kind}; choose another folder")
    others = [file for file in found if file != MANIFEST and file not in manifest.files]
    if others:
        raise BadInput(f"{name} holds {_some(others)}, which Litmus did not write; choose another folder, or move that")
    ours = [file for file in found if file in manifest.files]
    changed = [file for file in ours if (folder / file).is_symlink() or _fault(folder / file, manifest.files[file])]
    if changed:
        raise BadInput(
            f"{name} holds {_some(changed)}, changed since Litmus wrote it; choose another folder, or delete this one"
        )


def file_names(folder: Path) -> Iterator[str]:
    """The relative paths of all files and links below `folder` except IGNORED_FILES."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in [*files, *links]:
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED_FILES):
                yield (Path(place) / name).relative_to(folder).as_posix()


def sha256(content: bytes) -> str:
    """Hex digest of the content."""
    return hashlib.sha256(content).hexdigest()


def checksum(path: Path) -> Checksum:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checksum(bytes=path.stat().st_size, sha256=digest)


def _fault(path: Path, written: Checksum) -> str:
    """How a file differs from its checksum; empty if it does not."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != written.bytes:
        return f"has {path.stat().st_size} bytes instead of {written.bytes}"
    return "" if checksum(path) == written else "is not what was written"


def _some(names: list[str]) -> str:
    """Up to three file names for an error message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name, quoted=False) for name in names[:3]) + more


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn errors of writing `target` (full disk, no permission, unusable path) into BadInput with one sentence."""
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
    """Turn an OSError of reading `path` into BadInput with one sentence."""
    try:
        yield
    except OSError as error:
        named = shown(str(path), quoted=False, limit=300)
        raise BadInput(f"{named} cannot be read: {error.strerror or error}") from error


def real_path(path: str | Path) -> Path:
    """The absolute path without links; of links in a circle, which Path.resolve raises RuntimeError for, as it is."""
    return Path(os.path.realpath(path))


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace `target` by `content` in one step (temporary file next to it, fsync, rename).

    Links are followed: the file they point to is replaced. A device, a pipe or this process's own output is written to
    directly.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(target):
        stream = _stream(target)
        if stream is not None:
            with open(stream, "wb", buffering=0) as out:
                while data:
                    data = data[out.write(data) :]
            return
        real = real_path(target)
        real.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=real.parent, prefix=hidden_prefix(real), suffix=TEMP_SUFFIX)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            mode = real.stat().st_mode & 0o777 if real.is_file() else _default_mode(0o666)
            os.chmod(name, mode)
            os.replace(name, real)
            _fsync(real.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def folder_written_atomically(target: Path, kind: str | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `target` when the block ends without an error.

    With `kind` ("saved model") the folder gets a manifest of its files, and an existing `target` is replaced if it is
    empty, or of the same kind and unchanged since it was written; otherwise BadInput is raised before the block
    begins. Without `kind` only an empty `target` is replaced. Links are followed. On an error the temporary folder is
    removed and `target` is untouched.
    """
    real = real_path(target)
    with writing(target):
        check_replaceable(real, kind, str(target))
        real.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=real.parent, prefix=hidden_prefix(real), suffix=TEMP_SUFFIX))
        try:
            yield staging
            if kind is not None:
                write_manifest(staging, kind)
            for path in [*sorted(staging.rglob("*"), reverse=True), staging]:
                _fsync(path)
                path.chmod(_default_mode(0o777 if path.is_dir() else 0o666))
            if real.is_dir() and any(real.iterdir()):
                check_replaceable(real, kind, str(target))
                _exchange(staging, real)
                shutil.rmtree(staging, ignore_errors=True)
            else:
                os.replace(staging, real)
            _fsync(real.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def remove_folder(folder: Path) -> None:
    """Delete a folder atomically: a killed process leaves either all of it or a temporary folder that is ignored."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=hidden_prefix(folder), suffix=TEMP_SUFFIX))
    os.replace(folder, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, of: str | None = None) -> None:
    """Delete unfinished writes of killed processes in `folder`: those of the target named `of`, or all.

    Only for a process that holds the lock of what is written there.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        start, dot, _ = path.name.removesuffix(TEMP_SUFFIX).rpartition(".")
        if path.name.endswith(TEMP_SUFFIX) and dot and (of is None or start + dot == hidden_prefix(folder / of)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def hidden_prefix(target: Path) -> str:
    """Prefix of hidden files next to `target`; with a suffix it fits into the 255 bytes of a file name."""
    fits = len(os.fsencode(target.name)) <= 200
    return f".{target.name if fits else sha256(os.fsencode(target.name))}."


def _system_code(error: Exception) -> int:
    """The errno of an exception; 0 if it has none. Libraries written in Rust give it only in the message."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _concerns(error: Exception, target: Path) -> bool:
    """Whether an error concerns writing `target`, and not another file that was read in the same block."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes):
        return True
    path, real = real_path(os.fsdecode(name)), real_path(target)
    temporary = any(part.endswith(TEMP_SUFFIX) for part in path.parts)
    lock = path == real.with_name(f"{hidden_prefix(real)}lock")
    return temporary or lock or real.is_relative_to(path) or path.is_relative_to(real)


def _stream(target: Path) -> int | None:
    """An open descriptor if `target` cannot be replaced by a file: a pipe, /dev/null, this process's output."""
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
    handle = os.open(target, os.O_WRONLY | os.O_NONBLOCK)  # a pipe without a reader is an error; do not block
    os.set_blocking(handle, True)
    return handle


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders: atomically on Linux, elsewhere by renames during which both exist under some name."""
    import ctypes

    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap is not None and swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return
    aside = Path(tempfile.mkdtemp(dir=other.parent, prefix=f"{hidden_prefix(other)}old."))
    os.replace(other, aside)
    os.replace(one, other)
    os.replace(aside, one)


def _default_mode(mode: int) -> int:
    """The mode that the umask gives new files; tempfile creates them readable by the owner only."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask


def _fsync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems do not support fsync on folders
            raise
    finally:
        os.close(handle)
