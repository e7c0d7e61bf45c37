"""Files to documents: every format becomes one stream of pieces of clean UTF-8, never a whole corpus in memory."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from litmus.data.messages import printable
from litmus.data.text.files import ROWS, opened
from litmus.data.text.rows import column_of_text, texts_of_rows
from litmus.errors import BadInput, shown

PIECE_BYTES = 1 << 18
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TextFile:
    """A file to read: `format` is text (one document), jsonl, json, csv or parquet (one per row of `column`).

    Without a `column` the file's own is found. `column_asked` says that the user named it.
    """

    path: Path
    format: str
    column: str | None = None
    column_asked: bool = False


@dataclass
class LeftOut:
    """What a reading has passed over so far: `rows` that have no text in the column."""

    rows: int = 0


class Piece(NamedTuple):
    """A stretch of one document: valid UTF-8, and how many invalid sequences had to be replaced in it."""

    document: int
    text: bytes
    bad: int


def read_pieces(files: Iterable[TextFile], left_out: LeftOut | None = None) -> Iterator[Piece]:
    """All non-empty documents of `files` in order, each as one or more pieces of at most about PIECE_BYTES bytes.

    Long documents are cut after a line where there is one, else between two characters. Invalid UTF-8 becomes
    U+FFFD. Rows without text are counted in `left_out`. BadInput for a binary or damaged file, and for one of which
    more than half of the rows have no text in a column that the user did not name.
    """
    document = 0
    for file in files:
        for stream in _documents(file, left_out or LeftOut()):
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


def _documents(file: TextFile, left_out: LeftOut) -> Iterator[BinaryIO]:
    if file.format not in ROWS:
        with opened(file.path) as stream:
            yield stream
        return
    column = column_of_text(file.path, file.format, file.column)
    if column is None:
        return
    rows = without = 0
    for text in texts_of_rows(file.path, file.format, column):
        rows += 1
        if text is None:
            without += 1
            left_out.rows += 1
        else:
            yield io.BytesIO(text)
    if (without == rows > 0) or (2 * without > rows and not file.column_asked):
        raise BadInput(
            f"{printable(file.path)}: {without} of {rows} rows have no text in the column {shown(column)}; "
            "is it called otherwise in some rows? PATH:COLUMN reads the column you name, and leaves out rows without it"
        )
