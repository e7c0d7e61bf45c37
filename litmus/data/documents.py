"""Files to documents: every format becomes one stream of pieces of clean UTF-8, never a whole corpus in memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from litmus.errors import BadInput, missing_extra, nearest

PIECE_BYTES = 1 << 18
BINARY_CHECK_BYTES = 8192
FORMATS = {".txt": "text", ".md": "text", ".py": "text", ".jsonl": "jsonl", ".parquet": "parquet"}
_HALF_SURROGATE_PAIR = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TextFile:
    """A file to read: `format` is text (one document), jsonl or parquet (one document per row of `column`)."""

    path: Path
    format: str
    column: str | None = None


class Piece(NamedTuple):
    """A stretch of one document: valid UTF-8, and how many invalid sequences had to be replaced in it."""

    document: int
    text: bytes
    bad: int


def format_of(path: Path) -> str | None:
    """The format that a file's suffix promises (.gz aside), or None if the suffix is not one of FORMATS."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"] and suffixes[-2:-1] != [".parquet"]:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def read_pieces(files: Iterable[TextFile]) -> Iterator[Piece]:
    """All non-empty documents of `files` in order, each as one or more pieces of at most about PIECE_BYTES bytes.

    Long documents are cut after a line where there is one, else between two characters. Invalid UTF-8 becomes
    U+FFFD. A binary or damaged file raises BadInput.
    """
    document = 0
    for file in files:
        for stream in _documents(file):
            found = False
            for block in _blocks(stream):
                found = True
                yield Piece(document, *_clean(block))
            document += found


def first_bytes(pieces: Iterable[Piece], limit: int | None) -> Iterator[Piece]:
    """The pieces that make up the first `limit` bytes of text; the last one is cut short between two characters."""
    left = limit
    for piece in pieces:
        if left is None or len(piece.text) <= left:
            yield piece
        else:
            if kept := piece.text[: character_boundary(piece.text, left)]:
                yield piece._replace(text=kept)
            return
        if left is not None:
            left -= len(piece.text)


def character_boundary(text: bytes, position: int) -> int:
    """The last place at or before `position` that does not split a character of the valid UTF-8 `text`."""
    while 0 < position < len(text) and text[position] & 0xC0 == 0x80:
        position -= 1
    return position


def _clean(block: bytes) -> tuple[bytes, int]:
    try:
        block.decode()
        return block, 0
    except UnicodeDecodeError:
        text = block.decode(errors="replace")
        return text.encode(), text.count(_REPLACEMENT) - block.count(_REPLACEMENT.encode())


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while True:
        read = stream.read(PIECE_BYTES)
        block = rest + read
        if len(read) < PIECE_BYTES:
            if block:
                yield block
            return
        end = block.rfind(b"\n") + 1 or _start_of_last_character(block)
        yield block[:end]
        rest = block[end:]


def _start_of_last_character(block: bytes) -> int:
    for back in range(1, 4):
        if block[-back] & 0xC0 != 0x80:
            return len(block) - back
    return len(block) - 4


def _documents(file: TextFile) -> Iterator[BinaryIO]:
    with reading(file.path):
        if file.format == "parquet":
            yield from _parquet_rows(file)
            return
        with _opened(file.path) as stream:
            if b"\0" in stream.read(BINARY_CHECK_BYTES):
                raise BadInput(f"{file.path} contains NUL bytes: it is binary (or UTF-16), not UTF-8 text")
            stream.seek(0)
            if file.format == "jsonl":
                yield from _json_rows(file, stream)
            else:
                yield stream


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an unreadable or damaged file into one sentence."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def _opened(path: Path) -> contextlib.AbstractContextManager[Any]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _json_rows(file: TextFile, stream: BinaryIO) -> Iterator[BinaryIO]:
    column = None
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadInput(f"{file.path} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadInput(f"{file.path} line {number} is a JSON {type(row).__name__}, not an object with columns")
        if column is None:
            strings = [name for name, value in row.items() if isinstance(value, str)]
            column = text_column(file.column, list(row), strings, str(file.path))
        text = row.get(column)
        if text is None:
            continue
        if not isinstance(text, str):
            found = type(text).__name__
            raise BadInput(f"{file.path} line {number}: column {column!r} holds a {found}, not a string")
        yield io.BytesIO(_raw(text))


def _raw(text: str) -> bytes:
    """UTF-8 of a JSON string; bad bytes and half surrogate pairs in it become bad bytes, counted later on."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _HALF_SURROGATE_PAIR.sub("\udcff", text).encode("utf-8", "surrogateescape")


def _parquet_rows(file: TextFile) -> Iterator[BinaryIO]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "data", f"reading {file.path}") from error
    try:
        table = parquet.ParquetFile(file.path)
        types = {field.name: field.type for field in table.schema_arrow}
        strings = [n for n, t in types.items() if pyarrow.types.is_string(t) or pyarrow.types.is_large_string(t)]
        column = text_column(file.column, list(types), strings, str(file.path))
        if column not in strings:
            raise BadInput(f"{file.path}: column {column!r} holds {types[column]}, not strings")
        for batch in table.iter_batches(batch_size=1024, columns=[column]):
            # As bytes, because a writer may have stored strings that are not valid UTF-8.
            for text in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                if text is not None:
                    yield io.BytesIO(text)
    except pyarrow.ArrowException as error:
        raise BadInput(f"{file.path} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def text_column(asked: str | None, columns: list[str], strings: list[str], where: str) -> str:
    """The column that holds the documents: the one asked for, else `text`, else the only column of strings."""
    if asked is not None:
        if asked not in columns:
            raise BadInput(f"{where} has no column {asked!r}; {nearest(asked, columns)}")
        return asked
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise BadInput(
        f"{where} has no column 'text' and {len(strings)} other columns of strings; "
        f"add :COLUMN to the corpus, valid: {', '.join(strings) or 'none'}"
    )
