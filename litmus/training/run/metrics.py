"""Metrics of a training: metrics.jsonl, which survives a kill at any byte, and experiment trackers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from litmus.errors import BadInput, missing_extra
from litmus.files import reading, write_atomically, writing
from litmus.yaml_json import parse_json

KINDS_0_1 = {"held_out": "val"}
"""Kinds of events that version 0.1.0 wrote, and their names now."""


class Metrics:
    """Appends events to metrics.jsonl, one JSON object per line; measured times are under the key "timing".

    Opening the file removes the events after `step`, which a resumed training writes again: except for "timing" the
    file of an interrupted training equals that of an uninterrupted one. Damaged lines are removed, and the number of
    steps without a line is logged.
    """

    def __init__(self, path: Path, step: int, log: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        length, rest, steps = _up_to(path, step)
        if steps < step:
            log(f"{path} has lines of {steps} of the first {step} steps; those of the others are gone")
        with writing(path):
            if rest:
                write_atomically(path, path.read_bytes()[:length] + b"".join(rest))
            elif path.exists():
                os.truncate(path, length)
            self._file = path.open("ab", buffering=0)

    def write(self, kind: str, step: int, metrics: dict[str, Any], timing: dict[str, float]) -> None:
        """Append one event. It survives a crash of the process, and after `sync` a crash of the machine."""
        event = {
            "kind": kind,
            "step": step,
            **metrics,
            "timing": {key: round(value, 6) for key, value in timing.items()},
        }
        line = json.dumps(event).encode() + b"\n"
        with writing(self.path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Flush everything written to disk."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The events of a metrics.jsonl in order, without damaged or truncated lines, under this version's names."""
    with reading(path), path.open("rb") as file:
        events = [event for event in map(_event, file) if event is not None]
    return [{**event, "kind": KINDS_0_1.get(event["kind"], event["kind"])} for event in events]


def _up_to(path: Path, step: int) -> tuple[int, list[bytes], int]:
    """The events up to `step`: bytes before the first damaged line, undamaged lines after it, number of steps."""
    length, rest, steps, damaged = 0, [], 0, False
    with reading(path), path.open("rb") if path.exists() else open(os.devnull, "rb") as file:
        for line in file:
            event = _event(line)
            if event is None:
                damaged = True
            elif event["step"] > step:
                break
            else:
                steps += event["kind"] == "train"
                if damaged:
                    rest.append(line)
                else:
                    length += len(line)
    return length, rest, steps


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of one line, None for a damaged or truncated line."""
    try:
        event = parse_json(line, "a line") if line.endswith(b"\n") else None
    except BadInput:
        return None
    valid = isinstance(event, dict) and isinstance(event.get("kind"), str) and type(event.get("step")) is int
    return event if valid else None


class Tracker(Protocol):
    """A service that metrics are sent to besides metrics.jsonl."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send the metrics of one step."""

    def close(self) -> None:
        """Send what is still buffered."""


class TensorBoard:
    """Event files in the run folder; `tensorboard --logdir runs` shows them."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        _import("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Hides the events after this step, which a resumed training writes again.
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class HostedTracker:
    """trackio (a local dashboard) or wandb (its servers, or offline): one run each, resumed under the same name."""

    def __init__(self, package: str, folder: Path, config: Mapping[str, Any]) -> None:
        library = _import(package)
        resume: dict[str, Any] = {"resume": "allow"}
        if package == "wandb":
            resume |= {"id": folder.name, "dir": str(folder)}
        self._run = library.init(project="litmus", name=folder.name, config=dict(config), **resume)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def open_trackers(names: Iterable[str], folder: Path, step: int, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of those names for a run that starts at `step`; BadInput when a package is missing."""
    return [
        TensorBoard(folder, step, config) if name == "tensorboard" else HostedTracker(name, folder, config)
        for name in names
    ]


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        if error.name == package:
            raise missing_extra(package, package, f"the tracker {package}") from None
        raise BadInput(f"the tracker {package} is installed but cannot be imported: {error}") from error
