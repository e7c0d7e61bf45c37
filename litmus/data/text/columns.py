"""Columns: which column of a table holds the documents, decided by name over a sample of its rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from litmus.data.messages import printable
from litmus.errors import BadInput, nearest, shown

SAMPLE_ROWS = 1000
PREFERRED = ("text", "content")
MOST_COLUMNS_NAMED = 20
DEEPEST_COLUMN = 4
_NO_TEXT = re.compile(r"(bool|u?int|float|half|double|decimal|date|time|duration)")
"""How the types begin of values that cannot be text, in JSON and in Parquet."""
CONVERSATION = "list of messages"
_SPEAKER_KEYS = ({"role", "content"}, {"from", "value"})
_IDENTIFIES = re.compile(
    r"(^|.*[^a-z])(id|ids|uuid|guid|key|hash|md5|sha1|sha256|url|uri|path|file|filename|name|date|time|timestamp"
    r"|lang|language|label|source|split|type)$",
    re.IGNORECASE,
)
"""Names of columns whose strings say which row it is, or what kind of row: no text to learn from."""


class Columns:
    """The columns of a table as a sample of its rows shows them, each with the types of its values.

    A column inside another is called `outer.inner`.
    """

    def __init__(self) -> None:
        self.types: dict[str, dict[str, None]] = {}

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Columns:
        """What the `rows`, as JSON has them, hold."""
        columns = cls()
        for row in rows:
            for name, value in row.items():
                columns._see(name, value, 1)
        return columns

    def add(self, name: str, kind: str) -> None:
        """Note that column `name` has values of type `kind`; `str` for strings."""
        self.types.setdefault(name, {})[kind] = None

    def holding_text(self, asked: str | None, where: str) -> str:
        """The column with the documents: the one asked for, else `text`, else `content`, else the only one that can be.

        BadInput, naming all columns and their types, where none or more than one can.
        """
        if asked is not None:
            if asked not in self.types:
                close = nearest(asked, self.types) if self.types else "it has no columns"
                raise BadInput(f"{where} has no column {shown(asked)}; {printable(close)}; its columns: {self}")
            return asked
        for name in PREFERRED:
            alike = [column for column in self.types if column.lower() == name]
            chosen = name if name in alike else alike[0] if len(alike) == 1 else None
            if chosen is not None and "str" in self.types[chosen]:
                return chosen
            if len(alike) > 1 and chosen is None:
                self._refuse(where, f"has the columns {' and '.join(map(repr, alike))}, either of which may be meant")
            if alike:
                self._refuse(where, f"has the column {(chosen or alike[0])!r}, but no strings in it")
        if (only := self._only_possible()) is not None:
            return only
        if chats := [name for name, kinds in self.types.items() if CONVERSATION in kinds]:
            held = f"conversations in the column {shown(chats[0])}, each a list of messages with a role and a content"
            raise BadInput(f"{where} holds {held}; they are not read yet: save their text as one column of strings")
        self._refuse(where, "has no column 'text' and not just one other column that must be it")
        raise AssertionError

    def _only_possible(self) -> str | None:
        """The one column of strings, if its name is not that of a label and no other could hold text unseen."""
        possible = [name for name, kinds in self.types.items() if not all(map(_NO_TEXT.match, kinds))]
        if len(possible) == 1 and set(self.types[possible[0]]) <= {"str", "null"} and "str" in self.types[possible[0]]:
            return None if _IDENTIFIES.match(possible[0]) or re.search("[a-z]I[dD]$", possible[0]) else possible[0]
        return None

    def _refuse(self, where: str, why: str) -> None:
        raise BadInput(f"{where} {why}; name the column with the text as PATH:COLUMN; the columns: {self}")

    def _see(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, dict) and value and depth < DEEPEST_COLUMN:
            for inner, content in value.items():
                self._see(f"{name}.{inner}", content, depth + 1)
        else:
            self.add(name, kind_of(value))

    def __str__(self) -> str:
        named = [f"{printable(name, 60)} ({' or '.join(kinds)})" for name, kinds in self.types.items()]
        more = f" and {len(named) - MOST_COLUMNS_NAMED} more" if len(named) > MOST_COLUMNS_NAMED else ""
        return (", ".join(named[:MOST_COLUMNS_NAMED]) or "none") + more


def kind_of(value: Any) -> str:
    """The type of a JSON value as an error names it."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return CONVERSATION if any(keys <= value[0].keys() for keys in _SPEAKER_KEYS) else "list of objects"
    return "null" if value is None else type(value).__name__


def value_in(row: dict[str, Any], column: str) -> Any:
    """The value of a column, `outer.inner` for one inside another; None where the row does not have it."""
    if column in row:
        return row[column]
    for dot in (match.start() for match in re.finditer(r"\.", column)):
        inside = row.get(column[:dot])
        if isinstance(inside, dict) and (value := value_in(inside, column[dot + 1 :])) is not None:
            return value
    return None
