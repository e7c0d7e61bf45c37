"""metrics.jsonl: one line per event of a training, append-only, whole again after a kill at any byte."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from litmus.errors import BadInput
from litmus.files import reading, write_atomically, writing
from litmus.yaml_json import parse_json


class Metrics:
    """Appends events to metrics.jsonl; all figures that depend on the clock stand under the key "timing".

    Opening it takes back whatever was written after `step`, so that a resumed training writes those lines again:
    but for "timing" the file of an interrupted training equals that of an uninterrupted one. Lines that somebody
    damaged are removed, and `announce` is told how many steps have no line left.
    """

    def __init__(self, path: Path, step: int, announce: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        length, rest, told = _up_to(path, step)
        if told < step:
            announce(f"{path} tells of {told} of the {step} steps until here; the lines of the others are gone")
        with writing(path):
            if rest:
                write_atomically(path, path.read_bytes()[:length] + b"".join(rest))
            elif path.exists():
                os.truncate(path, length)
            self._file = path.open("ab", buffering=0)

    def write(self, kind: str, step: int, figures: dict[str, Any], timing: dict[str, float]) -> None:
        """Append one event; it survives the death of the process, and after `settle` that of the machine."""
        event = {
            "kind": kind,
            "step": step,
            **figures,
            "timing": {key: round(value, 6) for key, value in timing.items()},
        }
        line = json.dumps(event).encode() + b"\n"
        with writing(self.path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def settle(self) -> None:
        """Return once everything written is on the disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl in order, without lines that are damaged or were cut short."""
    with reading(path), path.open("rb") as file:
        return [event for event in map(_event, file) if event is not None]


def _up_to(path: Path, step: int) -> tuple[int, list[bytes], int]:
    """What the file tells of steps up to `step`: how many bytes of it, whole lines behind a damaged one, and steps."""
    length, rest, told, damaged = 0, [], 0, False
    with reading(path), path.open("rb") if path.exists() else open(os.devnull, "rb") as file:
        for line in file:
            event = _event(line)
            if event is None:
                damaged = True
            elif event["step"] > step:
                break
            else:
                told += event["kind"] == "train"
                if damaged:
                    rest.append(line)
                else:
                    length += len(line)
    return length, rest, told


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of one line, None for a line that is none or was cut short."""
    try:
        event = parse_json(line, "a line") if line.endswith(b"\n") else None
    except BadInput:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("kind"), str) and type(event.get("step")) is int
    return event if whole else None
