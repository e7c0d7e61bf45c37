"""Reading of threads: rows of tables and conversations as turns, each with its thread, time, author, role and place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field, field_validator

from litmus.bounds import MAX_INT, MAX_SEED, Bounded
from litmus.data.chat.template import ASSISTANT, Role
from litmus.data.messages import Log, printable
from litmus.data.text.columns import MAX_COLUMNS_SHOWN, SAMPLE_ROWS, column_value
from litmus.data.text.rows import Row, read_rows
from litmus.errors import BadInput, shown

TABLE_COLUMNS = {
    "thread": ("thread_href", "thread_id", "thread_title", "thread", "conversation_id", "topic_id", "topic", "channel"),
    "time": ("message_timestamp", "timestamp", "time", "datetime", "date", "created_at", "created_utc", "ts"),
    "author": ("message_username", "username", "author", "user", "nick", "speaker", "sender", "name"),
    "text": ("message", "text", "content", "body"),
}
"""Columns of a table of messages by their usual names; the first that is there is read."""

CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPT, COMPLETION = "prompt", "completion"
ROLES: dict[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys((ASSISTANT, "gpt", "model", "bot", "chatgpt", "bing", "bard"), "assistant"),
    "system": "system",
}
"""Roles by the names that formats of conversations use."""

TIME_FORMATS = (
    "%b %d, %Y at %I:%M %p",
    "%B %d, %Y at %I:%M %p",
    "%b %d, %Y %I:%M %p",
    "%b %d, %Y",
    "%d %b %Y %H:%M",
    "%d %b %Y %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
)
"""Tried after ISO 8601, seconds since 1970 and e-mail dates. 03/04/2021 is not guessed at: it has two meanings."""

PLACES_SHOWN = 3
INCOMPLETE, NO_TIME = "without thread, author or text", "with a time that cannot be read"
"""Why a row is not a message."""


class ThreadSettings(Bounded):
    """How threads become training windows; each option is documented where it is declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    thread_column: str | None = None
    """Column that names a message's thread; found by its name when not given."""

    time_column: str | None = None
    """Column of a message's time; found by its name when not given, and `none` keeps the order of the file."""

    author_column: str | None = None
    """Column of a message's author; found by its name when not given."""

    text_column: str | None = None
    """Column of a message's text; found by its name when not given."""

    time_format: str | None = None
    """Format of the times as in Python's strptime, such as %d/%m/%Y %H:%M; the usual ones are found when not given."""

    min_messages: int | None = Field(None, ge=1, le=MAX_INT)
    """Messages of the shortest thread that is kept; 4 in a table, 2 in conversations with roles when not given."""

    seed: int = Field(42, ge=0, le=MAX_SEED)
    """Seed of the split by thread."""

    pseudonyms: bool = False
    """Whether authors are called User1, User2, ... in each thread, also where a message names them."""

    window: int | None = Field(None, ge=0, le=MAX_INT)
    """Messages before a target turn; 0 takes whole threads. 4 in a table, 0 in conversations when not given."""

    targets: str | None = None
    """Turns to train on: every, last, role:assistant, or author:NAME,NAME. Every turn of a table, role:assistant of
    conversations when not given."""

    keep_head: bool = False
    """Whether a thread's first message stays in front of windows that begin later, and of those cut to the context."""

    max_tokens: int | None = Field(None, ge=8, le=MAX_INT)
    """Tokens of a window, context and target; the training's context when not given."""

    max_target: int | None = Field(None, ge=2, le=MAX_INT)
    """Trained tokens of one turn, its end included; 512, and at most half of a window, when not given."""

    template: str | None = None
    """Chat template (.jinja, tokenizer_config.json); the tokenizer's own, else NAME: TEXT<end>, when not given."""

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: str | None) -> str | None:
        if targets is not None:
            Targets.parse(targets)
        return targets


class Targets(NamedTuple):
    """Which turns of a thread are trained on: `kind` is every, last, role or author, with the roles or authors."""

    kind: str
    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.kind}:{','.join(sorted(self.names))}" if self.names else self.kind

    @classmethod
    def parse(cls, text: str) -> Targets:
        """Read every, last, role:NAME or author:NAME,NAME; ValueError for anything else."""
        kind, colon, names = text.partition(":")
        found = frozenset(filter(None, map(str.strip, names.split(","))))
        if kind in ("every", "last") and not colon:
            return cls(kind)
        if (kind == "role" and found and found <= set(ROLES.values())) or (kind == "author" and found):
            return cls(kind, found)
        raise ValueError(f"targets = {shown(text)}; every, last, role:assistant or author:NAME,NAME is valid")

    def chosen(self, turns: list[tuple[str | None, Role | None]]) -> list[int]:
        """The numbers of the target turns, given the (author, role) of each turn of a thread."""
        if self.kind == "last":
            return [len(turns) - 1]
        part = {"role": 1, "author": 0}.get(self.kind)
        return [number for number, turn in enumerate(turns) if part is None or turn[part] in self.names]


class Turn(NamedTuple):
    """One message as it was read: `time` in seconds since 1970, None if the file's order counts; `place` is its row."""

    thread: str
    time: float | None
    author: str | None
    role: Role | None
    text: str
    place: str


class TurnReader:
    """Reads the turns of files; `rejected` counts the rows that are none by reason, `times` the formats of times.

    with_roles: whether the files hold conversations with roles, known from the first row on.
    """

    def __init__(self, settings: ThreadSettings, log: Log) -> None:
        self._settings, self._log = settings, log
        self.rejected: Counter[str] = Counter()
        self.times: Counter[str] = Counter()
        self.with_roles: bool | None = None
        self._last_format: str | None = None
        self._examples: list[str] = []

    def turns(self, files: Iterable[tuple[Path, str]]) -> Iterator[Turn]:
        """The turns of all files (path, format) in order. BadInput for a file that holds no threads, by its line."""
        for number, (path, form) in enumerate(files):
            rows = read_rows(path, form)
            first = list(islice(rows, SAMPLE_ROWS))
            columns = list(dict.fromkeys(name for row in first for name in row.values))
            if not first:
                continue
            key = next(
                (name for name in CONVERSATIONS if any(_is_conversation(row.values.get(name)) for row in first)), None
            )
            with_roles = key is not None or {PROMPT, COMPLETION} <= set(columns)
            if self.with_roles not in (None, with_roles):
                raise BadInput(
                    f"{printable(path)} and the files before it hold a table and conversations; read them apart"
                )
            self.with_roles = with_roles
            where, whole = printable(path), chain(first, rows)
            if with_roles:
                yield from self._conversations(where, f"{number}", key, whole)
            else:
                yield from self._table(where, columns, whole)
        self._report()

    def _table(self, where: str, columns: list[str], rows: Iterable[Row]) -> Iterator[Turn]:
        named = {part: self._column(where, part, columns) for part in TABLE_COLUMNS}
        for row in rows:
            thread, author, text = (column_value(row.values, str(named[part])) for part in ("thread", "author", "text"))
            place = f"{where} {row.place}"
            if any(isinstance(value, list | dict) for value in (thread, author, text)):
                raise BadInput(
                    f"{place}: thread, author and text must be strings, and one of them is a list or an object"
                )
            if None in (thread, author, text):
                self.rejected[INCOMPLETE] += 1
                continue
            time = None
            if named["time"] is not None:
                raw = column_value(row.values, named["time"])
                if (time := self._seconds(raw)) is None:
                    self.rejected[NO_TIME] += 1
                    if len(self._examples) < PLACES_SHOWN:
                        self._examples.append(f"{place} ({shown(raw)})")
                    continue
            yield Turn(str(thread), time, str(author), None, str(text), place)

    def _column(self, where: str, part: str, columns: list[str]) -> str | None:
        asked = getattr(self._settings, f"{part}_column")
        if part == "time" and asked == "none":
            return None
        usual = TABLE_COLUMNS[part] if asked is None else (asked,)
        if (found := next((name for name in usual if name in columns), None)) is not None:
            return found
        if asked is not None and "." in asked and asked.partition(".")[0] in columns:
            return asked
        what = f"has no column of the {part}" if asked is None else f"has no column {shown(asked)}"
        advice = f"name yours, e.g. --chat {part}_column=COLUMN" + (", or none" if part == "time" else "")
        raise BadInput(
            f"{where} {what}, and it holds no conversations; its columns: "
            f"{', '.join(map(shown, columns[:MAX_COLUMNS_SHOWN]))}; {advice}"
        )

    def _conversations(self, where: str, number: str, key: str | None, rows: Iterable[Row]) -> Iterator[Turn]:
        for row in rows:
            place = f"{where} {row.place}"
            said = row.values.get(key) if key else [*_as_list(row.values, PROMPT), *_as_list(row.values, COMPLETION)]
            if not isinstance(said, list) or not said:
                self.rejected[INCOMPLETE] += 1
                continue
            for message in said:
                if not isinstance(message, dict):
                    raise BadInput(
                        f"{place}: a conversation is a list of messages with a role and a content, not of "
                        f"{type(message).__name__}"
                    )
                role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
                if text is None or role is None:
                    self.rejected[INCOMPLETE] += 1
                    continue
                if not isinstance(text, str) or role not in ROLES:
                    found = (
                        f"the role {shown(role)}"
                        if isinstance(text, str)
                        else f"a content that is a {type(text).__name__}"
                    )
                    raise BadInput(f"{place} has {found}; a text by one of {', '.join(ROLES)} is valid")
                name = message.get("name")
                yield Turn(
                    f"{number} {row.place}", None, name if isinstance(name, str) else None, ROLES[role], text, place
                )

    def _seconds(self, raw: Any) -> float | None:
        """A time in seconds since 1970 (UTC if it names no zone), None if it cannot be read."""
        parsed = parse_time(
            raw, self._settings.time_format or self._last_format, only=self._settings.time_format is not None
        )
        if parsed is None:
            return None
        seconds, form = parsed
        self.times[form] += 1
        self._last_format = form
        return seconds

    def _report(self) -> None:
        if missed := self.rejected[NO_TIME]:
            first = f"such as {', '.join(self._examples)}"
            if missed > sum(self.times.values()):
                raise BadInput(
                    f"{missed} rows have a time that cannot be read, {first}; give its format, e.g. "
                    "--chat time_format='%d/%m/%Y %H:%M'"
                )
            self._log(f"{missed} rows were dropped, as their time cannot be read, {first}")
        if len(self.times) > 1:
            counted = ", ".join(f"{count} {form}" for form, count in self.times.most_common())
            self._log(f"times are in {len(self.times)} formats, each read in its own: {counted}")


def parse_time(raw: Any, likely: str | None = None, *, only: bool = False) -> tuple[float, str] | None:
    """Seconds since 1970 of a time, and the name of its format; None if it is none. `likely` is tried first."""
    if isinstance(raw, datetime | date):
        return _utc(raw if isinstance(raw, datetime) else datetime(raw.year, raw.month, raw.day)), "a date"
    if isinstance(raw, bool) or raw is None:
        return None
    text = str(raw).strip()
    if not only and re.fullmatch(r"-?\d{6,19}(\.\d*)?", text):
        number = float(text)
        while abs(number) > 1e11:  # milliseconds, microseconds or nanoseconds
            number /= 1000
        return number, "seconds since 1970"
    for form in dict.fromkeys(filter(None, (likely, *(() if only else ("ISO 8601", "e-mail", *TIME_FORMATS))))):
        try:
            if form == "ISO 8601":
                return _utc(datetime.fromisoformat(text)), form
            if form == "e-mail":
                if "," in text:
                    return _utc(parsedate_to_datetime(text)), form
            elif "%" in form:
                return _utc(datetime.strptime(text, form)), form
        except (ValueError, TypeError, OverflowError, re.error):
            continue
    return None


def _utc(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _is_conversation(value: Any) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return {"role", "content"} <= value[0].keys() or {"from", "value"} <= value[0].keys()


def _as_list(values: Mapping[str, Any], key: str) -> list[Any]:
    """A prompt or completion as messages: a string is one of the user or of the assistant."""
    value = values.get(key)
    if isinstance(value, str):
        return [{"role": "user" if key == PROMPT else ASSISTANT, "content": value}]
    return value if isinstance(value, list) else []
