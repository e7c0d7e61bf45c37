import json
from pathlib import Path

import pytest

WORDS = ("apple", "river", "stone", "cloud", "paper", "light", "garden", "window", "yellow", "copper", "silver", "lamp")


@pytest.fixture
def rows():
    """Twelve threads of eight messages by three authors, in the columns of the Bluemoon set; no two alike."""
    return [
        {
            "thread_title": f"thread {thread}",
            "message_timestamp": f"2024-03-{thread + 1:02} 10:{number:02}",
            "message_username": f"user{(thread + number) % 3}",
            "message": " ".join(WORDS[(thread * 5 + number * 3 + at * at) % len(WORDS)] for at in range(4))
            + f" {thread}.{number}",
        }
        for thread in range(12)
        for number in range(8)
    ]


@pytest.fixture
def write(tmp_path):
    """write(rows, name) -> the path of a file of JSON lines."""

    def make(rows, name="threads.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return make
