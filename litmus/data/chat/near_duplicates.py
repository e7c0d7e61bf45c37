"""Near-duplicates among messages: MinHash with banding finds candidates, the Jaccard similarity of shingles decides.

Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman & Ullman, "Mining of
Massive Datasets", chapter 3. The index is a table of SQLite, so that it may be larger than memory.
"""

from __future__ import annotations

import sqlite3
import zlib

import numpy as np

MIN_WORDS = 8
"""Shorter messages, such as thanks, are alike in any two conversations and are not compared."""
SHINGLE_WORDS = 3
MIN_SIMILARITY = 0.8
BANDS, ROWS = 16, 4
"""A pair of similarity 0.8 is a candidate with probability 1 - (1 - 0.8⁴)¹⁶ = 0.9998, one of 0.4 with 0.34."""

_random = np.random.Generator(np.random.Philox(key=[0, 0]))
_FACTORS = _random.integers(1, 1 << 63, (BANDS * ROWS, 1), dtype=np.uint64) | np.uint64(1)
_OFFSETS = _random.integers(0, 1 << 63, (BANDS * ROWS, 1), dtype=np.uint64)
_MIXERS = _random.integers(1, 1 << 63, (BANDS, ROWS), dtype=np.uint64) | np.uint64(1)


class NearDuplicates:
    """An index of messages in the tables `message_bands` and `messages` (id, text) of a database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE message_bands (band INTEGER, message INTEGER)")
        database.execute("CREATE INDEX bands_of ON message_bands (band)")

    def add(self, message: int, text: str) -> bool:
        """Index a message, by its id; False if it is too short to be compared."""
        if not (found := shingles(text)):
            return False
        self._database.executemany(
            "INSERT INTO message_bands VALUES (?, ?)", ((band, message) for band in _bands(found))
        )
        return True

    def holds_like(self, text: str) -> bool:
        """Whether a message in the index has a similarity of at least MIN_SIMILARITY to `text`."""
        found = shingles(text)
        if not found:
            return False
        bands = _bands(found)
        query = (
            "SELECT DISTINCT messages.text FROM message_bands JOIN messages ON messages.id = message "
            f"WHERE band IN ({', '.join('?' * len(bands))})"
        )
        return any(
            similarity(found, shingles(other)) >= MIN_SIMILARITY for (other,) in self._database.execute(query, bands)
        )


def shingles(text: str) -> frozenset[int]:
    """Hashes of all SHINGLE_WORDS consecutive words of a text, in lower case; none of a text below MIN_WORDS."""
    words = text.lower().split()
    if len(words) < MIN_WORDS:
        return frozenset()
    parts = range(len(words) - SHINGLE_WORDS + 1)
    return frozenset(zlib.crc32(" ".join(words[at : at + SHINGLE_WORDS]).encode()) for at in parts)


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    """The Jaccard similarity of two sets."""
    return len(one & other) / max(len(one | other), 1)


def _bands(found: frozenset[int]) -> list[int]:
    """One hash for each band of the MinHash signature of shingles."""
    values = np.fromiter(found, np.uint64, len(found))
    signature = ((values * _FACTORS + _OFFSETS) >> np.uint64(32)).min(axis=1)  # multiply-shift hashing
    mixed = (signature.reshape(BANDS, ROWS) * _MIXERS).sum(axis=1, dtype=np.uint64) + np.arange(BANDS, dtype=np.uint64)
    return mixed.astype(np.int64).tolist()
