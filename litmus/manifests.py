"""Manifests: what a folder held when it was written, so that it is known whole, damaged, or holding others' files."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.contents import contents
from litmus.errors import BadInput, shown

MANIFEST = "manifest.json"
TEMPORARY = ".litmus-tmp"
"""Ends the names of what is being written, hidden next to its target; a kill leaves it, and nobody needs it."""
NOBODYS = (".DS_Store", "._*", ".nfs*", ".fuse_hidden*", ".directory", "Thumbs.db", "desktop.ini", f"*{TEMPORARY}")
"""Files that operating systems put into any folder, and what a killed write left: nobody's work."""


class Checksum(BaseModel):
    """Size and sha256 of a file, to tell whether it is still what was written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a folder is ("checkpoint", "saved model") and the checksum of each file in it, by relative path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    files: dict[str, Checksum]


class Damaged(Exception):
    """Says what is wrong with a folder."""


def write_manifest(folder: Path, kind: str) -> None:
    """Write down every file that `folder` holds now."""
    files = {name: checksum(folder / name) for name in sorted(file_names(folder))}
    text = Manifest(kind=kind, files=files).model_dump_json(indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; Damaged when it cannot be read."""
    try:
        return Manifest.model_validate_json(contents(folder / MANIFEST))
    except PermissionError:
        raise
    except (OSError, ValidationError) as error:
        raise Damaged(f"{MANIFEST} cannot be read") from error


def verify(folder: Path, files: Mapping[str, Checksum]) -> None:
    """Return if every file of `files` is what was written; Damaged names the first that is not."""
    for name, written in files.items():
        if fault := _fault(folder / name, written):
            raise Damaged(f"{name} {fault}")


def check_replaceable(folder: Path, kind: str | None, name: str) -> None:
    """BadInput, with `name` for the folder, unless it is absent, empty, or of this kind and just as it was written.

    What operating systems leave in folders does not count, and is replaced with the rest.
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
    """The relative paths of all files and links below `folder`, without those that are nobody's work."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in [*files, *links]:
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in NOBODYS):
                yield (Path(place) / name).relative_to(folder).as_posix()


def checksum(path: Path) -> Checksum:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checksum(bytes=path.stat().st_size, sha256=digest)


def _fault(path: Path, written: Checksum) -> str:
    """How a file differs from what was written; empty if it does not."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != written.bytes:
        return f"has {path.stat().st_size} bytes instead of {written.bytes}"
    return "" if checksum(path) == written else "is not what was written"


def _some(names: list[str]) -> str:
    """Some names of files, fit for a sentence."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name, quoted=False) for name in names[:3]) + more
