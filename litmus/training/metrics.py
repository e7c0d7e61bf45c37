"""metrics.jsonl: one line per event of a training, append-only, whole again after a kill at any byte."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from litmus.files import writing


class Metrics:
    """Appends events to metrics.jsonl; all figures that depend on the clock stand under the key "timing".

    Opening it takes back whatever was written after `step`, so that a resumed training writes those lines again:
    but for "timing" the file of an interrupted training equals that of an uninterrupted one.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        with writing(path):
            if path.exists():
                os.truncate(path, _length_up_to(path, step))
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
    """The events of a metrics.jsonl in order, without a last line that was cut short."""
    with path.open("rb") as file:
        return [event for event in map(_event, file) if event is not None]


def _length_up_to(path: Path, step: int) -> int:
    """Bytes of the whole lines at the head of the file that belong to steps up to `step`."""
    length = 0
    with path.open("rb") as file:
        for line in file:
            event = _event(line)
            if event is None or event["step"] > step:
                break
            length += len(line)
    return length


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of one line, None for a line cut short."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("step"), int) else None
