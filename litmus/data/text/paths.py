"""Paths: the files of a path, a folder or a glob pattern."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from litmus.data.messages import printable
from litmus.errors import BadInput

_NOT_FILES = {
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISFIFO: "a pipe, which can be read only once",
    stat.S_ISSOCK: "a socket",
}


def expand_user(location: str) -> Path | None:
    """`location` as a path with `~` resolved; None if it is no valid path."""
    try:
        return Path(location).expanduser() if location and "\0" not in location else None
    except RuntimeError:  # unknown user after ~
        return None


def is_folder(path: Path) -> bool | None:
    """True for a folder, False for a file, None if there is nothing; BadInput for anything else or without access."""
    try:
        mode = path.stat().st_mode
    except ValueError:
        return None
    except OSError as error:
        if path_is_free(path):
            return None
        reason = "it is a link to nowhere" if isinstance(error, FileNotFoundError) else error.strerror
        raise BadInput(f"{printable(path)} cannot be read: {reason}") from error
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return stat.S_ISDIR(mode)
    raise BadInput(f"{printable(path)} is {file_kind(mode)}; a file or a folder is valid")


def path_is_free(path: Path) -> bool:
    """Whether nothing exists at `path`, not even a broken link."""
    try:
        path.lstat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def file_kind(mode: int) -> str:
    """The name of a file type that is neither a regular file nor a folder."""
    return next((name for test, name in _NOT_FILES.items() if test(mode)), "no file")


def files_below(root: Path, excluded: Collection[str] = ()) -> list[Path]:
    """All visible files below `root`, sorted by path. Links are followed, each folder is entered once.

    Folders named in `excluded` are skipped. OSError for a folder that cannot be read.
    """
    found = []
    for folder, names in folders_below(root, excluded):
        found += [folder / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def folders_below(
    root: Path, excluded: Collection[str] = (), on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """`root` and the visible folders below it with the names of their files; each once, even with cyclic links."""

    def stop(error: OSError) -> None:
        raise error

    entered = set()
    for name, folders, files in os.walk(root, followlinks=True, onerror=on_error or stop):
        status = os.stat(name)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(folder for folder in folders if folder not in excluded and not folder.startswith("."))
        yield Path(name), files


def is_pattern(location: str) -> bool:
    """Whether `location` holds one of *, ? and [."""
    return glob.has_magic(location)


def files_matching(pattern: Path) -> list[Path]:
    """The files that a pattern matches, sorted, as in `glob`, but each folder under `**` once, even with cyclic links.

    Everything but folders counts; pipes and devices are refused on reading.
    """
    parts = [part for i, part in enumerate(pattern.parts) if part != "**" or pattern.parts[i - 1 : i] != ("**",)]
    if parts[-1] == "**":
        parts.append("*")
    return sorted(path for path in set(_expand(Path(), parts)) if not path.is_dir())


def _expand(folder: Path, parts: list[str]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below, _ in folders_below(folder, on_error=lambda error: None):
            yield from _expand(below, rest)
    elif is_pattern(part):
        for name in _names_in(folder):
            if fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith(".")):
                yield from _expand(folder / name, rest)
    elif os.path.lexists(folder / part):
        yield from _expand(folder / part, rest)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not a folder, or no access: a pattern matches what can be read
        return []
