"""Threads: messages grouped, sorted, cleaned and split by thread, in a SQLite file that may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from litmus.data.chat.near_duplicates import NearDuplicates, shingles
from litmus.data.chat.reading import ThreadSettings, Turn, TurnReader
from litmus.data.chat.template import Role
from litmus.data.messages import SECONDS_BETWEEN_LINES, Log, printable, readable_bytes
from litmus.errors import BadInput

THREAD_SPLITS = ("train", "validation", "held_out")
VALIDATION_SHARE = 0.05
"""Of the threads; taken from those that are not held out."""
MIN_MESSAGES_TABLE, MIN_MESSAGES_CONVERSATIONS = 4, 2
FILE, COUNTS = "threads.sqlite", "counts.json"

EMPTY, DUPLICATE = "empty", "duplicate of a message of its thread"
DUPLICATE_THREAD, SHORT = "in a duplicate of another thread", "in a thread of too few messages"
NEAR_DUPLICATE = "near-duplicate of a message of another split"

_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]+")
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE threads (id INTEGER PRIMARY KEY, name TEXT, split TEXT);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, thread INTEGER, time REAL, author TEXT, role TEXT, text TEXT, place TEXT, digest BLOB,
    dropped TEXT
);
CREATE UNIQUE INDEX same ON messages (thread, digest);
"""
_TURNS = "SELECT thread, author, role, text, place FROM messages WHERE dropped IS NULL"
_IN_SPLIT = "thread IN (SELECT id FROM threads WHERE split = ?)"
_ORDER = "ORDER BY thread, time, id"
_INSERT = "INSERT OR IGNORE INTO messages (thread, time, author, role, text, place, digest) VALUES (?,?,?,?,?,?,?)"


class ThreadTurn(NamedTuple):
    """A turn of a cleaned thread."""

    author: str | None
    role: Role | None
    text: str
    place: str


class Thread(NamedTuple):
    """A thread of at least one turn, in the order in which they were said."""

    number: int
    turns: list[ThreadTurn]


class Threads:
    """The cleaned threads in a folder that `write_threads` wrote, and the counts of how they were made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[str, Any] = json.loads((folder / COUNTS).read_text(encoding="utf-8"))

    def of(self, split: str, numbers: Sequence[int] = (0, sys.maxsize)) -> Iterator[Thread]:
        """The threads of a split, one after the other; `numbers` are the first and the last that may be among them."""
        query = f"{_TURNS} AND {_IN_SPLIT} AND thread BETWEEN ? AND ? {_ORDER}"
        with closing(self._database()) as database:
            yield from _grouped(database.execute(query, (split, *numbers)))

    def ranges(self, split: str, parts: int) -> list[tuple[int, int]]:
        """The first and last numbers of the threads in each of at most `parts` parts of about equally many messages."""
        query = (
            f"SELECT thread, count(*) FROM messages WHERE dropped IS NULL AND {_IN_SPLIT} GROUP BY thread ORDER BY 1"
        )
        with closing(self._database()) as database:
            numbers, messages = zip(*database.execute(query, (split,)), strict=True)
        ends = list(accumulate(messages))
        firsts = sorted({bisect_left(ends, ends[-1] * part / parts) for part in range(parts)})
        return [(numbers[a], numbers[b - 1]) for a, b in pairwise([*firsts, len(numbers)])]

    def _database(self) -> sqlite3.Connection:
        path = f"file:{self.folder / FILE}?mode=ro&immutable=1"
        return sqlite3.connect(path, uri=True, check_same_thread=False)


def write_threads(
    folder: Path,
    files: list[tuple[Path, str]],
    settings: ThreadSettings,
    *,
    held_out: float,
    sample_bytes: int | None,
    log: Log,
) -> None:
    """Read threads, clean and split them, and write them with their counts into `folder`.

    The steps, each counted: rows that are no message; empty messages; duplicates of a message (same author, time and
    text) in a thread; threads equal to an earlier one; threads of fewer than `min_messages`; the split by thread; and
    messages of train and validation that are near-duplicates of one in a later split. BadInput if fewer than three
    threads are left.
    """
    with closing(sqlite3.connect(folder / FILE)) as database:
        database.executescript(_SCHEMA)
        reader = TurnReader(settings, log)
        noted = _insert(database, reader, files, sample_bytes, log)
        name = printable(files[0][0]) if len(files) == 1 else f"{len(files)} files"
        usual = MIN_MESSAGES_CONVERSATIONS if reader.with_roles else MIN_MESSAGES_TABLE
        shortest = settings.min_messages or usual
        untimed = database.execute("SELECT count(*) FROM messages WHERE time IS NULL").fetchone()[0] > 0
        _drop_duplicate_threads(database)
        _drop_short_threads(database, shortest)
        _split(database, settings.seed, held_out, f"{name} holds", shortest)
        compared = _drop_near_duplicates(database)
        _drop_short_threads(database, shortest)
        dropped = dict(reader.rejected)
        dropped |= dict(
            database.execute("SELECT dropped, count(*) FROM messages WHERE dropped NOTNULL GROUP BY dropped")
        )
        kept = "FROM messages JOIN threads ON threads.id = thread WHERE dropped IS NULL"
        by_split = database.execute(f"SELECT split, count(DISTINCT thread), count(*) {kept} GROUP BY split").fetchall()
        messages, threads = ({row[0]: row[place] for row in by_split} for place in (2, 1))
        if missing := [split for split in THREAD_SPLITS if not messages.get(split)]:
            raise BadInput(
                f"{name} leaves no message for the {missing[0]} split, as all are near-duplicates of held-out ones"
            )
        lengths = [count for (count,) in database.execute(f"SELECT count(*) {kept} GROUP BY thread ORDER BY 1")]
        counts = {
            "rows": sum(reader.rejected.values()) + noted.pop("rows"),
            "dropped": dropped,
            "messages": {split: messages[split] for split in THREAD_SPLITS},
            "threads": {split: threads[split] for split in THREAD_SPLITS},
            "authors": database.execute(f"SELECT count(DISTINCT author) {kept}").fetchone()[0],
            "messages_in_a_thread": {
                "shortest": lengths[0],
                "median": lengths[len(lengths) // 2],
                "longest": lengths[-1],
            },
            "min_messages": shortest,
            "with_roles": bool(reader.with_roles),
            "times": {"the order of the file": 1} if untimed and not reader.with_roles else dict(reader.times),
            "cleaned": dict(noted),
            "compared_for_near_duplicates": compared,
        }
        database.execute("DROP TABLE message_bands")
        database.execute("CREATE INDEX in_order ON messages (thread, time, id)")
        database.commit()
    log(f"{counts['rows']:,} rows read, {sum(messages.values()):,} messages kept in {sum(threads.values()):,} threads")
    for reason, count in sorted(dropped.items()):
        log(f"  {count:,} dropped: {reason}")
    (folder / COUNTS).write_text(json.dumps(counts, indent=1), encoding="utf-8")


def _insert(
    database: sqlite3.Connection, reader: TurnReader, files: list[tuple[Path, str]], sample_bytes: int | None, log: Log
) -> Counter[str]:
    """Insert the turns, cleaned; those that are empty or duplicates marked as dropped. Returns what was noted."""
    noted: Counter[str] = Counter(rows=0)
    numbers: dict[str, int] = {}  # of threads by name: the only thing that grows in memory
    size, next_line = 0, time.monotonic() + SECONDS_BETWEEN_LINES
    for turn in reader.turns(files):
        clean, author = _cleaned(turn, noted)
        noted["rows"] += 1
        number = numbers.setdefault(turn.thread, len(numbers))
        said = None if turn.time is None else _digest(author or "", str(turn.time), clean)
        values = [number, turn.time, author, turn.role, clean, turn.place, said]
        if not clean or (not author and turn.role is None):
            _insert_dropped(database, values, EMPTY)
        elif not database.execute(_INSERT, values).rowcount:
            _insert_dropped(database, values, DUPLICATE)
        size += len(clean.encode())
        if sample_bytes is not None and size >= sample_bytes:
            break
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            log(f"reading threads: {noted['rows']:,} messages, {readable_bytes(size)}")
    if not noted["rows"]:
        raise BadInput(
            f"{printable(files[0][0])} holds no messages; a table of thread, time, author and text, or conversations "
            "of roles, is valid"
        )
    named = ((number, _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", name)) for name, number in numbers.items())
    database.executemany("INSERT INTO threads (id, name) VALUES (?, ?)", named)
    return noted


def _insert_dropped(database: sqlite3.Connection, values: list[Any], reason: str) -> None:
    query = "INSERT INTO messages (thread, time, author, role, text, place, dropped) VALUES (?,?,?,?,?,?,?)"
    database.execute(query, [*values[:-1], reason])


def _cleaned(turn: Turn, noted: Counter[str]) -> tuple[str, str | None]:
    """The text and author of a turn without control characters, halves of characters and white space around them."""
    whole = turn.text.replace("\r\n", "\n").replace("\r", "\n")
    valid = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", whole)
    printed = _CONTROL.sub("", valid)
    noted["messages with invalid UTF-8, replaced by U+FFFD"] += valid != whole
    noted["messages with control characters, left out"] += printed != valid
    if turn.author is None:
        return printed.strip(), None
    name = " ".join(_CONTROL.sub("", _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", turn.author)).split())
    while ": " in name:  # NAME: TEXT stays unambiguous
        name = name.replace(": ", ":")
    return printed.strip(), name


def _drop_duplicate_threads(database: sqlite3.Connection) -> None:
    """Mark the messages of threads in which the same was said as in an earlier one."""
    seen: set[bytes] = set()
    again = []
    for thread in _grouped(database.execute(f"{_TURNS} {_ORDER}")):
        said = _digest(*(part or "" for turn in thread.turns for part in (turn.author, turn.role, turn.text)))
        if said in seen:
            again.append((DUPLICATE_THREAD, thread.number))
        seen.add(said)
    database.executemany("UPDATE messages SET dropped = ? WHERE thread = ? AND dropped IS NULL", again)


def _drop_short_threads(database: sqlite3.Connection, shortest: int) -> None:
    short = "SELECT thread FROM messages WHERE dropped IS NULL GROUP BY thread HAVING count(*) < ?"
    database.execute(
        f"UPDATE messages SET dropped = ? WHERE dropped IS NULL AND thread IN ({short})", (SHORT, shortest)
    )


def _split(database: sqlite3.Connection, seed: int, held_out: float, holds: str, shortest: int) -> None:
    """Give each thread its split, in an order that the hash of the seed and its name decides."""
    database.create_function("place", 1, lambda name: _digest(str(seed), name), deterministic=True)
    kept = "SELECT DISTINCT thread FROM messages WHERE dropped IS NULL"
    ordered = [
        row[0] for row in database.execute(f"SELECT id FROM threads WHERE id IN ({kept}) ORDER BY place(name), id")
    ]
    if len(ordered) < len(THREAD_SPLITS):
        raise BadInput(
            f"{holds} {len(ordered)} threads of {shortest} or more messages; at least {len(THREAD_SPLITS)} are needed, "
            f"to train, to validate and to hold out; --chat min_messages=N admits shorter ones"
        )
    out = min(max(round(held_out * len(ordered)), 1), len(ordered) - 2)
    validation = min(max(round(VALIDATION_SHARE * len(ordered)), 1), len(ordered) - out - 1)
    names = ["held_out"] * out + ["validation"] * validation
    names += ["train"] * (len(ordered) - len(names))
    database.executemany("UPDATE threads SET split = ? WHERE id = ?", zip(names, ordered, strict=True))


def _drop_near_duplicates(database: sqlite3.Connection) -> int:
    """Mark the messages of train and validation that are like one of a later split; the number that were compared."""
    index = NearDuplicates(database)
    kept = (
        "SELECT messages.id, text FROM messages JOIN threads ON threads.id = thread WHERE dropped IS NULL AND split = ?"
    )
    compared = 0
    for split in reversed(THREAD_SPLITS):
        like = [(NEAR_DUPLICATE, number) for number, text in database.execute(kept, (split,)) if index.holds_like(text)]
        database.executemany("UPDATE messages SET dropped = ? WHERE id = ?", like)
        compared += len(like)
        for number, text in database.execute(kept, (split,)):
            compared += bool(shingles(text)) if split == "train" else index.add(number, text)
    return compared


def _grouped(rows: Iterator[tuple[Any, ...]]) -> Iterator[Thread]:
    for number, turns in groupby(rows, key=lambda row: row[0]):
        yield Thread(number, [ThreadTurn(*turn[1:]) for turn in turns])


def _digest(*parts: str) -> bytes:
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.digest()[:16]
