"""Documents: read files of every format as one stream of valid UTF-8, without loading a whole corpus."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from litmus.data.messages import printable
from litmus.data.text.files import ROW_FORMATS, opened
from litmus.data.text.rows import find_text_column, read_texts
from litmus.errors import BadInput, shown

MAX_PIECE_BYTES = 1 << 18
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TextFile:
    """A file to read: `format` is text (one document), jsonl, json, csv or parquet (one document per row of `column`).

    Without a `column` it is found automatically. `column_asked`: whether the user named it.
    """

    path: Path
    format: str
    column: str | None = None
    column_asked: bool = False


@dataclass
class SkippedRows:
    """Number of rows read so far that have no text in the column."""

    rows: int = 0


class Piece(NamedTuple):
    """A part of one document: its index, valid UTF-8, and the number of invalid sequences replaced in it."""

    document: int
    text: bytes
    bad: int


def read_pieces(files: Iterable[TextFile], skipped: SkippedRows | None = None) -> Iterator[Piece]:
    """All non-empty documents of `files` in order, each as one or more pieces of at most about MAX_PIECE_BYTES.

    Long documents are split after a line if possible, else between two characters. Invalid UTF-8 becomes U+FFFD.
    Rows without text are counted in `skipped`. BadInput for binary or damaged files, and for files in which more than
    half of the rows have no text, unless the user named the column.
    """
    document = 0
    for file in files:
        for stream in _documents(file, skipped or SkippedRows()):
            found = False
            for block in _blocks(stream):
                found = True
                yield Piece(document, *_clean(block))
            document += found


def take_bytes(pieces: Iterable[Piece], limit: int | None) -> Iterator[Piece]:
    """The pieces of the first `limit` bytes of text; the last one is cut between two characters."""
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
    """The last index at or before `position` that does not split a character of the valid UTF-8 `text`."""
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
        read = stream.read(MAX_PIECE_BYTES)
        block = rest + read
        if len(read) < MAX_PIECE_BYTES:
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


def _documents(file: TextFile, skipped: SkippedRows) -> Iterator[BinaryIO]:
    if file.format not in ROW_FORMATS:
        with opened(file.path) as stream:
            yield stream
        return
    column = find_text_column(file.path, file.format, file.column)
    if column is None:
        return
    rows = without = 0
    for text in read_texts(file.path, file.format, column):
        rows += 1
        if text is None:
            without += 1
            skipped.rows += 1
        else:
            yield io.BytesIO(text)
    if (without == rows > 0) or (2 * without > rows and not file.column_asked):
        raise BadInput(
            f"{printable(file.path)}: {without} of {rows} rows have no text in the column {shown(column)}; "
            "if some rows use another name, give the column as PATH:COLUMN; rows without it are then skipped"
        )
