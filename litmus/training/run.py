"""A run folder: what was trained and how, so that it can be repeated, resumed, scored and used."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.data import DataSettings, TokenData, Tokenizer, load_tokenizer
from litmus.data.tokenizer import FILE_NAME
from litmus.data.tokenizers import IN_A_RUN
from litmus.errors import BadInput, first_fault
from litmus.files import read_regular_file, reading
from litmus.model import Decoder, Recipe, load
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions
from litmus.runtime.precision import Precision, resolve_precision
from litmus.training.checkpoints import best_checkpoint, newest_checkpoint
from litmus.training.imported import Imported
from litmus.training.settings import TrainSettings
from litmus.yaml_json import read_yaml

UNKNOWN = "unknown"
"""The corpus of an imported model, whose training data nobody here knows."""
RUN, METRICS, CHECKPOINTS, TOKENIZER = "run.yaml", "metrics.jsonl", "checkpoints", IN_A_RUN
AUDIT = "audit.json"
"""Written by who audits, before the training."""


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


class Extension(BaseModel):
    """That a training was given a larger budget: the one it had until then, and the command that said so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    earlier_budget: str
    command: list[str]
    date: str


class Description(BaseModel):
    """run.yaml: everything needed to repeat a run; `start` is None where the weights were drawn at random.

    tokenizer_sha256: that of the tokenizer's file in the run folder; None in runs of older versions.
    `imported` is what came with a model of Hugging Face, where the weights go back to one.
    """

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
    tokenizer_sha256: str | None = None
    start: Start | None = None
    extensions: tuple[Extension, ...] = ()
    imported: Imported | None = None

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to be the same, as flat dotted keys."""
        whole = self.model_dump(mode="json", include={"recipe", "data", "data_fingerprint", "training", "start"})
        return dict(_flat(whole))

    def to_yaml(self) -> str:
        """The content of run.yaml."""
        return as_yaml(self.model_dump(mode="json"))


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
    imported: Imported | None = None,
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
            precision=resolve_precision(settings.precision, device),
            threads=settings.threads or torch.get_num_threads(),
            context=settings.context or usual,
        ),
        data_provenance=data.provenance,
        versions=versions(),
        hardware=hardware(device),
        command=sys.argv,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        tokenizer_sha256=sha256(data.tokenizer.to_json().encode()),
        start=None if start is None else Start(run=str(start.folder), step=start.step),
        imported=imported if start is None else start.description.imported,
    )


def read_description(folder: Path) -> Description:
    """The run.yaml of a run folder."""
    if not (folder / RUN).is_file():
        advice = "give a folder that 'litmus train' wrote"
        if (folder / "config.json").is_file():
            advice = f"make a run of this model with: litmus import {folder}"
        raise BadInput(f"{folder} is not a run folder: it has no {RUN}; {advice}")
    try:
        return Description.model_validate(read_yaml(folder / RUN))
    except (ValidationError, BadInput) as error:
        reason = first_fault(error, Description) if isinstance(error, ValidationError) else str(error)
        raise BadInput(f"{folder / RUN} cannot be read: {reason}; restore it, or delete the run") from error


def load_run(
    folder: str | Path,
    *,
    best: bool = False,
    trust_plugin: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> LoadedRun:
    """The model of a run at its newest whole checkpoint, or at the one with the lowest validation loss.

    `announce` is told when a damaged checkpoint had to be passed over. BadInput where run.yaml, every checkpoint or the
    tokenizer is missing or damaged.
    """
    folder = Path(folder)
    description = read_description(folder)
    checkpoint = newest_checkpoint(folder / CHECKPOINTS, announce)
    if best:
        checkpoint = best_checkpoint(folder / CHECKPOINTS) or checkpoint
    if checkpoint is None:
        raise BadInput(f"{folder} has no checkpoint yet; train it further with the command in its {RUN}")
    model = load(checkpoint.folder, trust_plugin=trust_plugin)
    return LoadedRun(model, _tokenizer(folder, description), description, checkpoint.state.step, folder)


def _tokenizer(folder: Path, description: Description) -> Tokenizer:
    """The tokenizer of a run; BadInput where its file is not the one that was written."""
    path = folder / TOKENIZER / FILE_NAME
    if not path.exists():
        raise BadInput(f"{folder} holds no tokenizer: {path} is missing; restore it, or let the command in {RUN} do so")
    with reading(path):
        found = sha256(read_regular_file(path))
    if found != (description.tokenizer_sha256 or found):
        raise BadInput(
            f"{path} is not the tokenizer that the run was trained with; restore it, or let the command in {RUN} do so"
        )
    return load_tokenizer(folder / TOKENIZER)


def data_to_go_on(start: LoadedRun, corpus: DataSettings | None) -> DataSettings:
    """What to train on from `start`: its own corpus and split unless another is given, always in its own tokens."""
    own = start.description.data
    if corpus is None and own.corpus == UNKNOWN:
        raise BadInput(f"{start.folder} was imported and has no corpus of its own; name one, e.g. --data stdlib")
    return (corpus or own).model_copy(update={"tokenizer": str(start.folder)})


def as_yaml(plain: dict[str, Any]) -> str:
    """Plain data as the YAML of a run folder's files."""
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def sha256(content: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(content).hexdigest()


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else key)
    else:
        yield place, value
