"""Columns: find the column of a table that holds the documents, by name and by the types in a sample of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from litmus.data.messages import printable
from litmus.errors import BadInput, nearest, shown

SAMPLE_ROWS = 1000
PREFERRED_COLUMNS = ("text", "content")
MAX_COLUMNS_SHOWN = 20
MAX_COLUMN_DEPTH = 4
_NON_TEXT_TYPES = re.compile(r"(bool|u?int|float|half|double|decimal|date|time|duration)")
"""Beginnings of the names of types that are not text, in JSON and in Parquet."""
CONVERSATION = "list of messages"
_SPEAKER_KEYS = ({"role", "content"}, {"from", "value"})
_LABEL_COLUMNS = re.compile(
    r"(^|.*[^a-z])(id|ids|uuid|guid|key|hash|md5|sha1|sha256|url|uri|path|file|filename|name|date|time|timestamp"
    r"|lang|language|label|source|split|type)$",
    re.IGNORECASE,
)
"""Names of columns whose strings are identifiers or labels, not documents."""


class Columns:
    """The columns of a table and the types of their values in a sample of rows; nested ones are `outer.inner`."""

    def __init__(self) -> None:
        self.types: dict[str, dict[str, None]] = {}

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Columns:
        """The columns of JSON objects."""
        columns = cls()
        for row in rows:
            for name, value in row.items():
                columns._add_value(name, value, 1)
        return columns

    def add(self, name: str, kind: str) -> None:
        """Record a type (`str` for strings) of column `name`."""
        self.types.setdefault(name, {})[kind] = None

    def text_column(self, requested: str | None, where: str) -> str:
        """The column with the documents: the requested one, else `text`, else `content`, else the only text column.

        BadInput with all columns and their types if the choice is not unique.
        """
        if requested is not None:
            if requested not in self.types:
                close = nearest(requested, self.types) if self.types else "it has no columns"
                raise BadInput(f"{where} has no column {shown(requested)}; {printable(close)}; its columns: {self}")
            return requested
        for name in PREFERRED_COLUMNS:
            alike = [column for column in self.types if column.lower() == name]
            chosen = name if name in alike else alike[0] if len(alike) == 1 else None
            if chosen is not None and "str" in self.types[chosen]:
                return chosen
            if len(alike) > 1 and chosen is None:
                self._refuse(where, f"has the columns {' and '.join(map(repr, alike))}, either of which may be meant")
            if alike:
                self._refuse(where, f"has the column {(chosen or alike[0])!r}, but no strings in it")
        if (only := self._only_text_column()) is not None:
            return only
        if chats := [name for name, kinds in self.types.items() if CONVERSATION in kinds]:
            held = f"conversations in the column {shown(chats[0])}, each a list of messages with a role and a content"
            raise BadInput(f"{where} holds {held}; read them as threads:PATH")
        self._refuse(where, "has no column 'text' and not just one other column that must be it")
        raise AssertionError

    def _only_text_column(self) -> str | None:
        """The only column that can hold text, if it holds strings and its name is not that of a label."""
        possible = [name for name, kinds in self.types.items() if not all(map(_NON_TEXT_TYPES.match, kinds))]
        if len(possible) == 1 and set(self.types[possible[0]]) <= {"str", "null"} and "str" in self.types[possible[0]]:
            return None if _LABEL_COLUMNS.match(possible[0]) or re.search("[a-z]I[dD]$", possible[0]) else possible[0]
        return None

    def _refuse(self, where: str, why: str) -> None:
        raise BadInput(f"{where} {why}; name the column with the text as PATH:COLUMN; the columns: {self}")

    def _add_value(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, dict) and value and depth < MAX_COLUMN_DEPTH:
            for inner, content in value.items():
                self._add_value(f"{name}.{inner}", content, depth + 1)
        else:
            self.add(name, type_name(value))

    def __str__(self) -> str:
        named = [f"{printable(name, 60)} ({' or '.join(kinds)})" for name, kinds in self.types.items()]
        more = f" and {len(named) - MAX_COLUMNS_SHOWN} more" if len(named) > MAX_COLUMNS_SHOWN else ""
        return (", ".join(named[:MAX_COLUMNS_SHOWN]) or "none") + more


def type_name(value: Any) -> str:
    """Name of a JSON value's type for messages."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return CONVERSATION if any(keys <= value[0].keys() for keys in _SPEAKER_KEYS) else "list of objects"
    return "null" if value is None else type(value).__name__


def column_value(row: dict[str, Any], column: str) -> Any:
    """The value of a column, nested ones as `outer.inner`; None if the row does not have it."""
    if column in row:
        return row[column]
    for dot in (match.start() for match in re.finditer(r"\.", column)):
        inside = row.get(column[:dot])
        if isinstance(inside, dict) and (value := column_value(inside, column[dot + 1 :])) is not None:
            return value
    return None
