"""Rows: the text of each row of JSON lines, JSON arrays, CSV and Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from litmus.data.messages import printable
from litmus.data.text.columns import SAMPLE_ROWS, Columns, column_value
from litmus.data.text.files import opened
from litmus.data.text.parquet import parquet_columns, parquet_rows, parquet_texts
from litmus.errors import BadInput, shown

MAX_ROW_BYTES = 1 << 28
DELIMITERS = ",\t;|"
_HALF_SURROGATE_PAIR = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """One row as a JSON object, and its location in the file, such as `line 3`."""

    place: str
    values: dict[str, Any]


def find_text_column(path: Path, form: str, asked: str | None) -> str | None:
    """The column of a file that holds the documents, determined from its first rows; None if it has no rows."""
    if form == "parquet":
        return parquet_columns(path).text_column(asked, printable(path))
    columns = Columns.of(_typed(row.values, form) for row in islice(read_rows(path, form), SAMPLE_ROWS))
    return columns.text_column(asked, printable(path)) if columns.types else None


def read_texts(path: Path, form: str, column: str) -> Iterator[bytes | None]:
    """The text of each row of a file as bytes, mostly UTF-8; None for a row without text."""
    if form == "parquet":
        yield from parquet_texts(path, column)
        return
    for place, values in read_rows(path, form):
        text = column_value(values, column)
        if not isinstance(text, str | None):
            found = type(text).__name__
            raise BadInput(f"{printable(path)} {place}: column {shown(column)} holds a {found}, not a string")
        yield None if text is None else utf8(text)


def utf8(text: str) -> bytes:
    """A JSON string as UTF-8; invalid bytes and lone surrogates become invalid bytes, which are counted later."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _HALF_SURROGATE_PAIR.sub("\udcff", text).encode("utf-8", "surrogateescape")


def read_rows(path: Path, form: str) -> Iterator[Row]:
    """The rows of a file in order; BadInput, with the line, for one that is damaged or cut."""
    if form == "parquet":
        yield from (Row(f"row {number}", values) for number, values in enumerate(parquet_rows(path), 1))
        return
    with opened(path) as stream:
        if form == "csv":
            yield from _csv_rows(path, stream)
        elif form == "json" and _is_array(stream):
            yield from _array_rows(path, stream)
        else:
            yield from _line_rows(path, stream)


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """The lines of a file with line ends; invalid bytes as surrogates."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) == MAX_ROW_BYTES:
            raise BadInput(f"{printable(path)} line {number} is longer than {MAX_ROW_BYTES} bytes: these are no rows")
        yield line.decode("utf-8", "surrogateescape")


def _line_rows(path: Path, stream: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, stream), 1):
        if not line.isspace():
            place = f"line {number}"
            yield Row(place, _require_object(path, place, _parse_json(path, place, line)))


def _is_array(stream: BinaryIO) -> bool:
    while (ahead := stream.peek(1)) and not ahead.strip():  # type: ignore[attr-defined]  # a buffered reader
        stream.read(len(ahead))
    return ahead.lstrip()[:1] == b"["


def _array_rows(path: Path, stream: BinaryIO) -> Iterator[Row]:
    content = stream.read(MAX_ROW_BYTES)
    if len(content) == MAX_ROW_BYTES:
        raise BadInput(
            f"{printable(path)} is a JSON array of more than {MAX_ROW_BYTES} bytes; save its rows as JSON lines"
        )
    array = _parse_json(path, "", content.decode("utf-8", "surrogateescape"))
    for number, value in enumerate(array, 1):
        yield Row(f"item {number}", _require_object(path, f"item {number}", value))


def _parse_json(path: Path, place: str, text: str) -> Any:
    where = f"{printable(path)} {place}".rstrip()
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        expected = "; in a .json file an array of rows is valid, or one row a line" if place == "line 1" else ""
        raise BadInput(f"{where} is not JSON: {error}{expected if path.suffix == '.json' else ''}") from error
    except RecursionError as error:
        raise BadInput(f"{where} is not read: its lists or objects are nested too deeply") from error
    except _DuplicateKeyError as error:
        raise BadInput(f"{where} has the key {shown(str(error))} twice") from error
    except ValueError as error:  # Python limits the digits of an integer
        raise BadInput(f"{where} holds an integer with more than 4300 digits") from error


class _DuplicateKeyError(ValueError):
    """A JSON object has the same key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return made


def _require_object(path: Path, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{printable(path)} {place} is a JSON {type(value).__name__}, not an object with columns")
    return value


def _csv_rows(path: Path, stream: BinaryIO) -> Iterator[Row]:
    """Rows of a table with a header; quoted cells may contain line ends. An empty cell is None."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    lines = _lines(path, stream)
    first = next(lines, "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(f"{printable(path)} has two columns called {shown(twice[0])}")
        for cells in reader:
            place = f"line {reader.line_num}"
            if cells and len(cells) != len(names):
                raise BadInput(
                    f"{printable(path)} {place} has {len(cells)} cells, where {len(names)} columns are named"
                )
            if cells:
                yield Row(place, {name: cell or None for name, cell in zip(names, cells, strict=True)})
    except csv.Error as error:
        raise BadInput(f"{printable(path)} line {reader.line_num} is not CSV: {error}") from error


def _typed(values: dict[str, Any], form: str) -> dict[str, Any]:
    """The values for type detection: CSV cells that look like numbers are numbers."""
    return {name: _number_or(cell) for name, cell in values.items()} if form == "csv" else values


def _number_or(cell: str | None) -> str | float | None:
    try:
        return cell if cell is None else float(cell)
    except ValueError:
        return cell
