"""The run that a pruning or quantization writes: new weights, with the run they were made from as its lineage."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from litmus.errors import BadInput
from litmus.files import folder_written_atomically
from litmus.model import Recipe
from litmus.model.storage import RECIPE, WEIGHTS
from litmus.runtime.hardware import versions
from litmus.training.budget import Usage
from litmus.training.run.checkpoints import State, save_checkpoint
from litmus.training.run.config import CHECKPOINTS, RUN, TOKENIZER, Compression, LoadedRun, Start


def check_free(folder: Path) -> None:
    """BadInput if there is something at `folder` already."""
    if folder.exists():
        raise BadInput(f"{folder} is there already; choose another name with --name, or delete it")


def write_compressed(
    source: LoadedRun, folder: Path, recipe: Recipe, tensors: dict[str, Tensor], done: Compression
) -> None:
    """Write the run `folder`: `tensors` at step 0, the source's tokenizer, and its configuration with the lineage."""
    check_free(folder)
    update: dict[str, Any] = {
        "recipe": recipe.to_dict(),
        "start": Start(run=str(source.folder), step=source.step),
        "compression": (*source.config.compression, done),
        "extensions": (),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    config = source.config.model_copy(update=update)
    with folder_written_atomically(folder) as fresh:
        (fresh / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        source.tokenizer.save(fresh / TOKENIZER)
        (fresh / RUN).write_text(config.to_yaml(), encoding="utf-8")
        save_checkpoint(fresh / CHECKPOINTS, recipe, tensors, {}, State(usage=Usage(), peak_memory_bytes=0))


def weight_bytes(folder: Path, step: int) -> int:
    """Bytes of a run's weights on disk at a step."""
    return (folder / CHECKPOINTS / str(step) / WEIGHTS).stat().st_size
