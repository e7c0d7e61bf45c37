"""Parquet files: columns with their types, and the strings of one column, structs and dictionaries included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litmus.data.messages import printable
from litmus.data.text.columns import CONVERSATION, Columns
from litmus.data.text.files import check_readable
from litmus.errors import BadInput, missing_extra, shown
from litmus.files import reading

BATCH_ROWS = 1024


def parquet_columns(path: Path) -> Columns:
    """The columns of a Parquet file, those inside structs included, with their types."""
    with _opened(path) as (file, pyarrow):
        columns = Columns()
        for field in file.schema_arrow:
            _add(columns, field.name, field.type, pyarrow.types)
    return columns


def parquet_texts(path: Path, column: str) -> Iterator[bytes | None]:
    """The strings of a column as bytes (which may be invalid UTF-8); None for a row without one."""
    with _opened(path) as (file, pyarrow):
        names = list(file.schema_arrow.names)
        steps = _steps(file.schema_arrow, column, pyarrow)
        if steps is None:
            raise BadInput(f"{printable(path)} has no column {shown(column)}")
        if names.count(steps[0]) > 1:
            raise BadInput(f"{printable(path)} has two columns called {shown(steps[0])}")
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[steps[0]]):
            values = batch.column(batch.schema.get_field_index(steps[0]))
            for inner in steps[1:]:
                values = pyarrow.compute.struct_field(values, inner)
            if pyarrow.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            if not _is_text(values.type, pyarrow.types):
                if not pyarrow.types.is_null(values.type):
                    raise BadInput(f"{printable(path)}: column {shown(column)} holds {values.type}, not strings")
                yield from [None] * len(values)
            else:
                yield from values.cast(pyarrow.large_binary()).to_pylist()


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as mappings of Python values."""
    with _opened(path) as (file, _):
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    check_readable(path)
    try:
        import pyarrow
        import pyarrow.compute
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "data", f"reading {printable(path)}") from error
    with reading(path), path.open("rb") as stream:
        try:
            yield parquet.ParquetFile(stream, page_checksum_verification=True), pyarrow
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = printable(next(iter(str(error).splitlines()), type(error).__name__))
            raise BadInput(f"{printable(path)} is not a readable Parquet file (damaged, or none): {reason}") from error


def _add(columns: Columns, name: str, kind: Any, types: Any) -> None:
    """Record a column, or those inside it if it is a struct."""
    if types.is_struct(kind):
        for inner in kind:
            _add(columns, f"{name}.{inner.name}", inner.type, types)
    else:
        columns.add(name, _kind(kind, types))


def _kind(kind: Any, types: Any) -> str:
    """The type's name for `Columns`."""
    if _is_text(kind, types):
        return "str"
    if types.is_null(kind):
        return "null"
    if types.is_list(kind) or types.is_large_list(kind):
        keys = {field.name for field in kind.value_type} if types.is_struct(kind.value_type) else set()
        return CONVERSATION if keys >= {"role", "content"} or keys >= {"from", "value"} else printable(kind, 80)
    return printable(kind, 80)


def _is_text(kind: Any, types: Any) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    strings = (types.is_string, types.is_large_string, types.is_string_view)
    return any(test(kind) for test in (*strings, types.is_binary, types.is_large_binary, types.is_binary_view))


def _steps(schema: Any, column: str, pyarrow: Any) -> list[str] | None:
    """The path of field names to a column; several if it is inside structs."""
    if column in schema.names:
        return [column]
    for dot in (place for place, char in enumerate(column) if char == "."):
        outer, inner = column[:dot], column[dot + 1 :]
        if outer in schema.names:
            kind = schema.field(schema.names.index(outer)).type
            if pyarrow.types.is_struct(kind) and (rest := _steps(pyarrow.schema(list(kind)), inner, pyarrow)):
                return [outer, *rest]
    return None
