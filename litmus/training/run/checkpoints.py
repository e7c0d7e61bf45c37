"""Checkpoints: folders with a manifest, written atomically; the newest undamaged one is used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from litmus.errors import BadInput
from litmus.files import (
    MANIFEST,
    Checksum,
    Damaged,
    file_names,
    folder_written_atomically,
    read_manifest,
    read_regular_file,
    reading,
    remove_folder,
    remove_leftovers,
    verify,
)
from litmus.model.plugins import PLUGIN_FILE
from litmus.model.recipe import Recipe
from litmus.model.storage import RECIPE, WEIGHTS, current_names, write_model
from litmus.training.budget import Usage

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"
KIND = "checkpoint"
CHECKSUMS_0_1 = "seals.json"
"""The file of checksums by file name that version 0.1.0 wrote instead of a manifest."""
_CHECKSUMS = TypeAdapter(dict[str, Checksum])
_STEP = re.compile("0|[1-9][0-9]*")


class State(BaseModel):
    """The state of a training besides its weights and its optimizers.

    There is no random state: the data order and the randomness of a step are functions of seed and step. Version 0.1.0
    wrote `spent` for usage and `held_out_loss` for val_loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    usage: Usage = Field(validation_alias=AliasChoices("usage", "spent"))
    peak_memory_bytes: int
    val_loss: float | None = Field(None, validation_alias=AliasChoices("val_loss", "held_out_loss"))

    @property
    def step(self) -> int:
        """Steps done."""
        return self.usage.steps


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files match their checksums."""

    folder: Path
    state: State

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters and buffers by name; parameters in fp32, whatever the precision of the training."""
        return current_names(load_file(self.folder / WEIGHTS))

    def optimizer_state(self) -> dict[str, Tensor]:
        """The state of the optimizers, as `Optimizers.state` returned it."""
        return current_names(load_file(self.folder / OPTIMIZER))


def save_checkpoint(
    folder: Path, recipe: Recipe, weights: dict[str, Tensor], optimizer_state: dict[str, Tensor], state: State
) -> None:
    """Write `folder`/<step>: recipe, fp32 weights, optimizer state, training state, and their manifest."""
    with folder_written_atomically(folder / str(state.step), KIND) as fresh:
        write_model(recipe, weights, fresh)
        save_file({name: value.contiguous() for name, value in optimizer_state.items()}, fresh / OPTIMIZER)
        (fresh / STATE).write_text(state.model_dump_json(indent=1), encoding="utf-8")


def newest_checkpoint(folder: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest undamaged checkpoint, None if there is no checkpoint; damaged ones that are skipped are logged.

    BadInput if all checkpoints are damaged, or one may not be read.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise BadInput(f"{folder} is not a folder, so it holds no checkpoints; restore it, or delete the run")
    faults = []
    for step in reversed(_steps(folder)):
        try:
            checkpoint = _verified(folder / str(step))
        except Damaged as damage:
            faults.append(f"checkpoint {step} is damaged ({damage})")
            continue
        for fault in faults:
            log(f"{fault}; using checkpoint {step} instead")
        return checkpoint
    if faults:
        raise BadInput(f"no checkpoint in {folder} can be used: {', '.join(faults)}; delete the run to start again")
    return None


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """The undamaged checkpoint with the lowest validation loss, None if none has one."""
    undamaged = []
    for step in _steps(folder):
        try:
            undamaged.append(_verified(folder / str(step)))
        except Damaged:
            continue
    scored = [(c.state.val_loss, c.state.step, c) for c in undamaged if c.state.val_loss is not None]
    return min(scored, key=lambda entry: entry[:2])[2] if scored else None


def remove_later(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps, which are damaged, and unfinished ones of killed processes.

    Other files stay. BadInput if the folder of a later step holds a file that is not a checkpoint's.
    """
    for later in _steps(folder):
        if later > step:
            if foreign := _foreign(folder / str(later)):
                raise BadInput(f"checkpoint {folder / str(later)} is damaged, and {foreign}; move it away")
            remove_folder(folder / str(later))
    remove_leftovers(folder)


def prune(folder: Path, keep_last: int) -> None:
    """Keep the newest `keep_last` checkpoints and the one with the lowest validation loss."""
    losses = {step: _val_loss(folder / str(step)) for step in _steps(folder)}
    scored = [(loss, step) for step, loss in losses.items() if loss is not None]
    keep = set(sorted(losses)[-keep_last:]) | ({min(scored)[1]} if scored else set())
    for step in losses.keys() - keep:
        if not _foreign(folder / str(step)):
            remove_folder(folder / str(step))


def _verified(folder: Path) -> Checkpoint:
    with reading(folder):
        try:
            verify(folder, _checksums(folder))
            state = State.model_validate_json(read_regular_file(folder / STATE))
        except PermissionError:
            raise  # it may be undamaged, and readable for another user
        except (OSError, ValidationError) as error:
            raise Damaged(f"{STATE} cannot be read") from error
    if str(state.step) != folder.name:
        raise Damaged(f"it is of step {state.step}")
    return Checkpoint(folder, state)


def _checksums(folder: Path) -> dict[str, Checksum]:
    """The checksums of a checkpoint's files, written by this version or by 0.1.0."""
    if (folder / MANIFEST).exists() or not (folder / CHECKSUMS_0_1).is_file():
        return read_manifest(folder).files
    try:
        return _CHECKSUMS.validate_json(read_regular_file(folder / CHECKSUMS_0_1))
    except ValidationError as error:
        raise Damaged(f"{CHECKSUMS_0_1} cannot be read") from error


def _val_loss(folder: Path) -> float | None:
    try:
        return State.model_validate_json(read_regular_file(folder / STATE)).val_loss
    except (OSError, ValidationError):
        return None


def _steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are in `folder`."""
    if not folder.is_dir():
        return []
    with reading(folder):
        return sorted(int(path.name) for path in folder.iterdir() if _STEP.fullmatch(path.name))


def _foreign(folder: Path) -> str:
    """Which part of a checkpoint folder is not a checkpoint's, as a clause; empty if there is none."""
    if not folder.is_dir() or folder.is_symlink():
        return "is not a folder of its own"
    added = sorted(set(file_names(folder)) - {RECIPE, WEIGHTS, PLUGIN_FILE, OPTIMIZER, STATE, MANIFEST, CHECKSUMS_0_1})
    return f"{added[0]} was added to it" if added else ""
