"""A run folder: what was trained and how, so that it can be repeated, resumed, scored and used."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.data import DataSettings, TokenData, load_tokenizer
from litmus.data.tokenizers import IN_A_RUN
from litmus.errors import BadInput
from litmus.files import folder_written_atomically, write_atomically
from litmus.model import Decoder, Recipe, load
from litmus.model.storage import RECIPE
from litmus.training.checkpoints import best_checkpoint, newest_checkpoint
from litmus.training.machine import hardware, pick_device, versions
from litmus.training.precision import Precision, best_precision
from litmus.training.settings import TrainSettings

UNKNOWN = "unknown"
"""The corpus of an imported model, whose training data nobody here knows."""
RUN, METRICS, CHECKPOINTS, TOKENIZER = "run.yaml", "metrics.jsonl", "checkpoints", IN_A_RUN


class Resolved(BaseModel):
    """What the settings left open and the machine decided; a resumed training keeps to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    precision: Precision
    threads: int
    context: int


class Start(BaseModel):
    """The run, and its step, whose weights a training began from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    step: int


class Description(BaseModel):
    """run.yaml: everything needed to repeat a run; `start` is None where the weights were drawn at random."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: dict[str, Any]
    data: DataSettings
    data_fingerprint: str
    training: TrainSettings
    resolved: Resolved
    data_provenance: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    command: list[str]
    started: str
    start: Start | None = None

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be the same, as flat dotted keys."""
        whole = self.model_dump(mode="json", include={"recipe", "data", "data_fingerprint", "training", "start"})
        return dict(_flat(whole))


@dataclass(frozen=True)
class LoadedRun:
    """A trained model in fp32 with the tokenizer it was trained with."""

    model: Decoder
    tokenizer: Any
    description: Description
    step: int
    folder: Path


def describe(
    recipe: Recipe,
    data: TokenData,
    data_settings: DataSettings,
    settings: TrainSettings,
    start: LoadedRun | None = None,
) -> Description:
    """The description of a training that starts now, on this machine, by this command line."""
    device = pick_device(settings.device)
    usual = recipe.context if start is None else start.description.resolved.context
    return Description(
        recipe=recipe.to_dict(),
        data=data_settings,
        data_fingerprint=data.fingerprint,
        training=settings,
        resolved=Resolved(
            device=str(device),
            precision=best_precision(device) if settings.precision == "auto" else settings.precision,
            threads=settings.threads or torch.get_num_threads(),
            context=settings.context or usual,
        ),
        data_provenance=data.provenance,
        versions=versions(),
        hardware=hardware(device),
        command=sys.argv,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        start=None if start is None else Start(run=str(start.folder), step=start.step),
    )


def open_run(folder: Path, new: Description, recipe: Recipe, tokenizer: Any, *, resume: bool) -> Description:
    """Create the run folder, or return the description of the training that already lives there if it is this one.

    A folder whose training never began (its corpus was too short, say) is taken over.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; a run needs a folder of its own, so choose another name")
    began = (folder / METRICS).exists()
    if not folder.exists() or not any(folder.iterdir()) or ((folder / RUN).is_file() and not began):
        with folder_written_atomically(folder) as fresh:
            (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
            tokenizer.save(fresh / TOKENIZER)
            text = yaml.safe_dump(new.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
            write_atomically(fresh / RUN, text)
        return new
    old = read_description(folder)
    if not resume:
        raise BadInput(f"{folder} already holds a run; resume it, choose another name, or delete the folder")
    theirs, ours = old.identity(), new.identity()
    for key in [*theirs, *ours]:
        if theirs.get(key) != ours.get(key):
            raise BadInput(
                f"{folder} belongs to a run with {key} = {theirs.get(key)!r}, and {ours.get(key)!r} was asked for; "
                f"choose another name, or delete the folder"
            )
    return old


def read_description(folder: Path) -> Description:
    """The run.yaml of a run folder."""
    if not (folder / RUN).is_file():
        advice = "give a folder that 'litmus train' wrote"
        if (folder / "config.json").is_file():
            advice = f"make a run of this model with: litmus import {folder}"
        raise BadInput(f"{folder} is not a run folder: it has no {RUN}; {advice}")
    try:
        return Description.model_validate(yaml.safe_load((folder / RUN).read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is not YAML"
        raise BadInput(f"{folder / RUN} cannot be read: {reason}; restore it, or delete the run") from error


def load_run(
    folder: Path, *, best: bool = False, trust_plugin: bool = False, announce: Callable[[str], None] = lambda text: None
) -> LoadedRun:
    """The model of a run at its newest whole checkpoint, or at the one with the lowest validation loss.

    `announce` is told when a damaged checkpoint had to be passed over.
    """
    description = read_description(folder)
    checkpoint = newest_checkpoint(folder / CHECKPOINTS, announce)
    if best:
        checkpoint = best_checkpoint(folder / CHECKPOINTS) or checkpoint
    if checkpoint is None:
        raise BadInput(f"{folder} has no checkpoint yet; train it further with the command in its {RUN}")
    model = load(checkpoint.folder, trust_plugin=trust_plugin)
    return LoadedRun(model, load_tokenizer(folder / TOKENIZER), description, checkpoint.state.step, folder)


def data_to_go_on(start: LoadedRun, corpus: DataSettings | None) -> DataSettings:
    """What to train on from `start`: its own corpus and split unless another is given, always in its own tokens."""
    own = start.description.data
    if corpus is None and own.corpus == UNKNOWN:
        raise BadInput(f"{start.folder} was imported and has no corpus of its own; name one, e.g. --data stdlib")
    return (corpus or own).model_copy(update={"tokenizer": str(start.folder)})


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Refuse to train where another process is training; the claim ends with the process, however that ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"another process is training in {folder}; wait for it, or choose another name") from None
    try:
        yield
    finally:
        lock.release()


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else key)
    else:
        yield place, value
