"""Figures sent to TensorBoard, trackio or wandb besides metrics.jsonl; each package is imported only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from litmus.errors import BadInput, missing_extra


class Tracker(Protocol):
    """Somewhere to send figures."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Send the figures of one step."""

    def close(self) -> None:
        """Send what is still waiting."""


class TensorBoard:
    """Event files in the run folder; `tensorboard --logdir runs` shows them."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        _import("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Events after the step that a resumed training starts from are hidden: they are written again.
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Hosted:
    """trackio (a local dashboard) or wandb (its servers, or offline): one run each, resumed under the same name."""

    def __init__(self, package: str, folder: Path, config: Mapping[str, Any]) -> None:
        library = _import(package)
        again: dict[str, Any] = {"resume": "allow"}
        if package == "wandb":
            again |= {"id": folder.name, "dir": str(folder)}
        self._run = library.init(project="litmus", name=folder.name, config=dict(config), **again)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


def open_trackers(names: Iterable[str], folder: Path, step: int, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of those names for a run that starts at `step`; BadInput when a package is missing."""
    return [
        TensorBoard(folder, step, config) if name == "tensorboard" else Hosted(name, folder, config) for name in names
    ]


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        if error.name == package:
            raise missing_extra(package, package, f"the tracker {package}") from None
        raise BadInput(f"the tracker {package} is installed but cannot be imported: {error}") from error
