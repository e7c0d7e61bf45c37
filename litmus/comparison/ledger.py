"""The ledger of a folder of runs: ledger.jsonl, to which every finished comparison appends one line.

Lines are only appended, under a lock. A kill leaves at most one truncated last line, which readers skip.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.errors import BadInput
from litmus.files import read_regular_file, reading, writing
from litmus.locks import folder_lock
from litmus.yaml_json import parse_json

LEDGER = "ledger.jsonl"

VERDICT_KEYS = ("arm", "word", "difference", "interval", "metric", "confidence", "seeds")
"""What the ledger keeps of a verdict."""


class LedgerLine(BaseModel):
    """One finished comparison.

    seeds: number of trainings of the baseline. fingerprint: of the data. identity: hash of the plan. verdicts:
    VERDICT_KEYS of each.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    date: str
    command: str
    folder: str
    arms: list[str]
    budget: str
    seeds: int
    fingerprint: str
    identity: str
    verdicts: list[dict[str, Any]]


def check_ledger(runs: Path) -> None:
    """BadInput if the ledger of `runs` exists and is no file, which is better known before a comparison than after."""
    path = runs / LEDGER
    if os.path.lexists(path) and not path.is_file():
        raise BadInput(f"{path} is not a file, where the ledger of finished comparisons belongs; move it away")


def append(runs: Path, line: LedgerLine) -> bool:
    """Append a line, unless the ledger has it already, apart from date and command; returns whether it was added."""
    path = runs / LEDGER
    with folder_lock(path, "writing", on_wait=lambda sentence: None):
        if _content(line) in [_content(other) for other in read_ledger(runs)]:
            return False
        with writing(path), path.open("ab", buffering=0) as file:
            text = json.dumps(line.model_dump(mode="json")).encode() + b"\n"
            if file.tell() and not _ends_a_line(path):
                text = b"\n" + text  # the last line was truncated by a kill
            if file.write(text) != len(text):
                raise BadInput(f"the disk is full: {path} was not written; everything saved earlier is intact")
            os.fsync(file.fileno())
    return True


def read_ledger(runs: Path) -> list[LedgerLine]:
    """The lines of the ledger of `runs`, oldest first, without damaged ones; empty if there is no ledger."""
    path = runs / LEDGER
    if not os.path.lexists(path):
        return []
    with reading(path):
        text = read_regular_file(path)
    return [line for line in map(_parse, text.split(b"\n")) if line is not None]


def _parse(text: bytes) -> LedgerLine | None:
    try:
        return LedgerLine.model_validate(parse_json(text, "a line"))
    except (BadInput, ValidationError):
        return None


def _content(line: LedgerLine) -> str:
    return line.model_dump_json(exclude={"date", "command"})


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
