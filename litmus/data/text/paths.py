"""Locations: the files on this machine that a path, a folder or a pattern stands for."""

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


def expanded(location: str) -> Path | None:
    """The path that `location` writes, `~` resolved; None where no path can be written so."""
    try:
        return Path(location).expanduser() if location and "\0" not in location else None
    except RuntimeError:  # the home of a user who is not there
        return None


def is_folder(path: Path) -> bool | None:
    """True for a folder, False for a file, None where nothing is; BadInput for what is neither or out of reach."""
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
    raise BadInput(f"{printable(path)} is {other_than_file(mode)}; a file or a folder is valid")


def path_is_free(path: Path) -> bool:
    """Whether nothing lies at `path`, not even a link that leads nowhere or in a circle."""
    try:
        path.lstat()
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def other_than_file(mode: int) -> str:
    """What something with this mode is, in words, if it is neither a file nor a folder."""
    return next((name for test, name in _NOT_FILES.items() if test(mode)), "no file")


def files_below(root: Path, left_out: Collection[str] = ()) -> list[Path]:
    """All visible files below `root`, sorted by their path. Links are followed, each folder is entered once.

    Folders called as in `left_out` are passed over. OSError for a folder that cannot be read.
    """
    found = []
    for folder, names in folders_below(root, left_out):
        found += [folder / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def folders_below(
    root: Path, left_out: Collection[str] = (), on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """`root` and every visible folder below it, with the names of its files; a circle of links ends where it began."""

    def stop(error: OSError) -> None:
        raise error

    entered = set()
    for name, folders, files in os.walk(root, followlinks=True, onerror=on_error or stop):
        status = os.stat(name)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(folder for folder in folders if folder not in left_out and not folder.startswith("."))
        yield Path(name), files


def is_pattern(location: str) -> bool:
    """Whether `location` holds one of *, ? and [."""
    return glob.has_magic(location)


def files_matching(pattern: Path) -> list[Path]:
    """The files that a pattern matches, sorted, as `glob` has it; but a circle of links under `**` is entered once.

    Whatever else than a folder matches counts: a pipe or a device is the reader's to refuse.
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
    except OSError:  # a file, or a folder of someone else's: a pattern takes what it can reach
        return []
