"""Checkpoints: each a sealed folder that is either whole or not there; the newest whole one is used."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.model.recipe import Recipe
from litmus.model.storage import WEIGHTS, write_model
from litmus.training.budget import Spent

STATE, OPTIMIZER, SEALS = "state.json", "optimizer.safetensors", "seals.json"


class Seal(BaseModel):
    """Size and sha256 of a file, to tell whether it is still what was written."""

    bytes: int
    sha256: str


_SEALS = TypeAdapter(dict[str, Seal])


class State(BaseModel):
    """Where a training stood: with the weights and the optimizer's memory, all that its next step depends on.

    There is no random state to keep: the data order and the randomness of a step are functions of seed and step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spent: Spent
    peak_memory_bytes: int
    held_out_loss: float | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.spent.steps


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files were found to be whole."""

    folder: Path
    state: State

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters and buffers, in fp32 whatever the precision of the training."""
        return load_file(self.folder / WEIGHTS)

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizers remembered."""
        return load_file(self.folder / OPTIMIZER)


def save_checkpoint(
    folder: Path, recipe: Recipe, weights: dict[str, Tensor], optimizer_state: dict[str, Tensor], state: State
) -> None:
    """Write `folder`/<step>: recipe, fp32 weights, the optimizer's memory, the state, and a seal for each file."""
    with folder_written_atomically(folder / str(state.step)) as fresh:
        try:
            write_model(recipe, weights, fresh)
            save_file({name: value.contiguous() for name, value in optimizer_state.items()}, fresh / OPTIMIZER)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        (fresh / STATE).write_text(state.model_dump_json(indent=1), encoding="utf-8")
        seals = {path.name: _seal(path) for path in sorted(fresh.iterdir())}
        (fresh / SEALS).write_bytes(_SEALS.dump_json(seals, indent=1))


def newest_checkpoint(folder: Path, announce: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, None when there is no checkpoint; says so when a damaged one is passed over.

    BadInput when there are checkpoints and none is whole.
    """
    faults = []
    for step in reversed(_steps(folder)):
        try:
            checkpoint = _verified(folder / str(step))
        except _Damaged as damage:
            faults.append(f"checkpoint {step} is damaged ({damage})")
            continue
        for fault in faults:
            announce(f"{fault}; using checkpoint {step} instead")
        return checkpoint
    if faults:
        raise BadInput(f"no checkpoint in {folder} can be used: {', '.join(faults)}; delete the run to start again")
    return None


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """The whole checkpoint with the lowest validation loss, None when none was validated."""
    whole = []
    for step in _steps(folder):
        try:
            whole.append(_verified(folder / str(step)))
        except _Damaged:
            continue
    scored = [(c.state.held_out_loss, c.state.step, c) for c in whole if c.state.held_out_loss is not None]
    return min(scored, key=lambda entry: entry[:2])[2] if scored else None


def forget_after(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps, which are damaged ones, and what a killed process left half done."""
    if not folder.is_dir():
        return
    for later in _steps(folder):
        if later > step:
            _remove(folder / str(later))
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover)


def prune(folder: Path, keep_last: int) -> None:
    """Keep the newest `keep_last` checkpoints and the one with the lowest validation loss."""
    losses = {step: _held_out_loss(folder / str(step)) for step in _steps(folder)}
    scored = [(loss, step) for step, loss in losses.items() if loss is not None]
    keep = set(sorted(losses)[-keep_last:]) | ({min(scored)[1]} if scored else set())
    for step in losses.keys() - keep:
        _remove(folder / str(step))


class _Damaged(Exception):
    """Says what is wrong with a checkpoint."""


def _verified(folder: Path) -> Checkpoint:
    try:
        seals = _SEALS.validate_json((folder / SEALS).read_bytes())
    except (OSError, ValidationError) as error:
        raise _Damaged(f"{SEALS} cannot be read") from error
    for name, seal in seals.items():
        path = folder / name
        if not path.is_file():
            raise _Damaged(f"{name} is missing")
        if path.stat().st_size != seal.bytes:
            raise _Damaged(f"{name} has {path.stat().st_size} bytes instead of {seal.bytes}")
        if _seal(path) != seal:
            raise _Damaged(f"{name} is not what was written")
    return Checkpoint(folder, State.model_validate_json((folder / STATE).read_bytes()))


def _held_out_loss(folder: Path) -> float | None:
    try:
        return State.model_validate_json((folder / STATE).read_bytes()).held_out_loss
    except (OSError, ValidationError):
        return None


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit() and path.is_dir())


def _seal(path: Path) -> Seal:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Seal(bytes=path.stat().st_size, sha256=digest)


def _remove(folder: Path) -> None:
    """Take a folder away in one step: a kill leaves all of it, or a leftover that nobody takes for a checkpoint."""
    doomed = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old.")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _as_os_error(error: SafetensorError) -> Exception:
    """safetensors reports a full disk in words only; give it back its number."""
    full = f"(os error {errno.ENOSPC})" in str(error)
    return OSError(errno.ENOSPC, str(error)) if full else error
