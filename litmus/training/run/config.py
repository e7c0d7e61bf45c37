"""run.yaml: the configuration of a run, which is all that is needed to repeat it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from litmus.data import DataSettings, TokenData, Tokenizer
from litmus.data.tokens.make_tokenizer import RUN_SUBFOLDER
from litmus.errors import BadInput, first_fault
from litmus.files import sha256
from litmus.model import Decoder, Recipe
from litmus.model.recipe import current_keys
from litmus.runtime.device import pick_device
from litmus.runtime.hardware import hardware, versions
from litmus.runtime.precision import Precision, resolve_precision
from litmus.training.settings import TrainSettings
from litmus.yaml_json import as_yaml, read_yaml

UNKNOWN_CORPUS = "unknown"
"""The corpus of an imported model, whose training data is not known."""

RUN, METRICS, CHECKPOINTS, TOKENIZER = "run.yaml", "metrics.jsonl", "checkpoints", RUN_SUBFOLDER
AUDIT = "audit.json"
"""The audit of the model, which is made before the training."""


_IDENTITY = {"recipe", "data", "data_fingerprint", "training", "start", "compression"}
"""The keys of run.yaml by which two trainings are the same."""


class Imported(BaseModel):
    """What a Hugging Face folder holds besides recipe, weights and tokenizer; runs trained from it keep it for exports.

    dtype: the number format of its tensors; dtypes: of the tensors that have another. config, generation_config: the
    content of these files. written: the keys of config.json that the recipe as imported corresponds to, in Litmus's
    names; keys whose values differ at an export have changed since.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    dtype: str
    dtypes: dict[str, str] = {}
    config: dict[str, Any]
    written: dict[str, Any]
    generation_config: dict[str, Any] | None = None


class Resolved(BaseModel):
    """Values of settings that were "auto" or not given; a resumed training uses the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    precision: Precision
    threads: int
    context: int


class Start(BaseModel):
    """The run, and its step, whose weights a training started from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    step: int


class Extension(BaseModel):
    """A later increase of the budget: the budget before it, the command and its date."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    earlier_budget: str
    command: list[str]
    date: str


class Compression(BaseModel):
    """One pruning or quantization: its method, its options, and the share of the model's parameters it changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    options: dict[str, Any]
    share: float


class RunConfig(BaseModel):
    """The content of run.yaml.

    start: None if the weights were initialized at random. tokenizer_sha256: of the tokenizer file in the run folder;
    None in runs of older versions. imported: set if the weights come from a Hugging Face model. compression: what was
    done to weights since they were trained, the last one in this run, which was not trained itself.
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
    compression: tuple[Compression, ...] = ()

    def identity(self) -> dict[str, Any]:
        """The values that identify a training, as flat dotted keys."""
        whole = self.model_dump(mode="json", include=_IDENTITY)
        return dict(_flat({**whole, "recipe": current_keys(self.recipe)}))

    def to_yaml(self) -> str:
        """The content of run.yaml."""
        return as_yaml(self.model_dump(mode="json"))


@dataclass(frozen=True)
class LoadedRun:
    """A trained model in fp32 with its tokenizer and the configuration of its run."""

    model: Decoder
    tokenizer: Tokenizer
    config: RunConfig
    step: int
    folder: Path


def make_config(
    recipe: Recipe,
    data: TokenData,
    data_settings: DataSettings,
    settings: TrainSettings,
    start: LoadedRun | None = None,
    imported: Imported | None = None,
) -> RunConfig:
    """The configuration of a training that starts now, on this machine, by this command line."""
    device = pick_device(settings.device)
    default_context = recipe.context if start is None else start.config.resolved.context
    return RunConfig(
        recipe=recipe.to_dict(),
        data=data_settings,
        data_fingerprint=data.fingerprint,
        training=settings,
        resolved=Resolved(
            device=str(device),
            precision=resolve_precision(settings.precision, device),
            threads=settings.threads or torch.get_num_threads(),
            context=settings.context or default_context,
        ),
        data_provenance=data.provenance,
        versions=versions(),
        hardware=hardware(device),
        command=sys.argv,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        tokenizer_sha256=sha256(data.tokenizer.to_json().encode()),
        start=None if start is None else Start(run=str(start.folder), step=start.step),
        imported=imported if start is None else start.config.imported,
    )


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run folder."""
    if not (folder / RUN).is_file():
        advice = "give a folder that 'litmus train' wrote"
        if (folder / "config.json").is_file():
            advice = f"make a run of this model with: litmus import {folder}"
        raise BadInput(f"{folder} is not a run folder: it has no {RUN}; {advice}")
    try:
        return RunConfig.model_validate(read_yaml(folder / RUN))
    except (ValidationError, BadInput) as error:
        reason = first_fault(error, RunConfig) if isinstance(error, ValidationError) else str(error)
        raise BadInput(f"{folder / RUN} cannot be read: {reason}; restore it, or delete the run") from error


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value
