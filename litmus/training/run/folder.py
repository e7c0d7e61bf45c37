"""Open a run folder for a training: create, repair, resume, extend or refuse it. No file of a run is overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from litmus.data import Tokenizer
from litmus.data.tokens.hf_tokenizer_files import TEMPLATE
from litmus.data.tokens.tokenizer import FILE_NAME
from litmus.errors import BadInput, shown
from litmus.files import file_names, reading, real_path, remove_leftovers, sha256, write_atomically, writing
from litmus.model.recipe import Recipe
from litmus.model.storage import RECIPE
from litmus.training.budget import Budget
from litmus.training.run.config import (
    AUDIT,
    CHECKPOINTS,
    METRICS,
    RUN,
    TOKENIZER,
    Extension,
    RunConfig,
    read_config,
)
from litmus.training.run.result import RESULT
from litmus.yaml_json import as_yaml

BUDGET_KEY = "training.budget"
TOKENIZER_FILE = f"{TOKENIZER}/{FILE_NAME}"


def open_run(
    folder: Path,
    new: RunConfig,
    recipe: Recipe,
    tokenizer: Tokenizer,
    chat_template: str | None = None,
    *,
    resume: bool,
    log: Callable[[str], None],
) -> RunConfig:
    """Open `folder`, which this process has locked, for the training `new`; returns the configuration that is used.

    An empty folder becomes a run; so does one whose training never took a step (its audit failed, say), if it holds
    only files that were written for it. A folder of the same training is resumed, and extended if the budget is larger.
    Missing or damaged files are written again if run.yaml and the data determine them. BadInput if they do not, and for
    any other folder. run.yaml is written first, so that the same call can open what a kill at any moment leaves.
    """
    real = real_path(folder)
    if os.path.lexists(real) and not real.is_dir():
        found = "a file" if real.is_file() else "not a folder"
        raise BadInput(f"{folder} is {found}; a run needs a folder of its own, so choose another name")
    with writing(folder):
        real.mkdir(parents=True, exist_ok=True)
        remove_leftovers(real)
    for name in (RUN, RECIPE, TOKENIZER_FILE, METRICS, RESULT, AUDIT):
        if (folder / name).exists() and not (folder / name).is_file():
            raise BadInput(f"{folder / name} is not a file, where the run has one; move it away")
    config, old = new, None
    if os.path.lexists(folder / RUN):
        old = read_config(folder)
        if has_started(folder) or not _holds_only_ours(folder, old):
            if not resume:
                raise BadInput(f"{folder} already holds a run; resume it, choose another name, or delete the folder")
            config = _resumed(folder, old, new)
    elif others := [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]:
        names = ", ".join(shown(name, quoted=False) for name in others[:3])
        raise BadInput(
            f"{folder} is not a run folder: it holds {names} and no {RUN}; choose another name, restore {RUN}, or "
            f"delete the folder"
        )
    if config != old:
        write_atomically(folder / RUN, config.to_yaml())
    files = {RECIPE: recipe.to_yaml(), TOKENIZER_FILE: tokenizer.to_json(), TEMPLATE: chat_template}
    for name, content in files.items():
        if content is not None and _content(folder / name) != content.encode():
            write_atomically(folder / name, content)
            if config is not new:
                log(f"{folder / name} was missing or damaged, and is written again")
    return config


def has_started(folder: Path) -> bool:
    """Whether the folder holds a step, a checkpoint or a result."""
    checkpoints, metrics = folder / CHECKPOINTS, folder / METRICS
    with reading(folder):
        if checkpoints.is_dir():
            saved = any(not path.name.startswith(".") for path in checkpoints.iterdir())
        else:
            saved = os.path.lexists(checkpoints)
        stepped = metrics.stat().st_size > 0 if metrics.is_file() else os.path.lexists(metrics)
    return saved or stepped or os.path.lexists(folder / RESULT)


def _holds_only_ours(folder: Path, old: RunConfig) -> bool:
    """Whether a run that never took a step holds only files that were written for it, unchanged."""
    written = {RUN, RECIPE, TOKENIZER_FILE, METRICS, AUDIT} | ({TEMPLATE} if old.data.chat is not None else set())
    others = set(file_names(folder)) - written
    if others or _content(folder / RUN) != old.to_yaml().encode():
        return False
    recipe, tokenizer = _content(folder / RECIPE), _content(folder / TOKENIZER_FILE)
    return recipe in (None, as_yaml(old.recipe).encode()) and (
        tokenizer is None or sha256(tokenizer) == old.tokenizer_sha256
    )


def _resumed(folder: Path, old: RunConfig, new: RunConfig) -> RunConfig:
    """`old` if `new` is the same training, with its budget if only that is larger; BadInput names what differs."""
    theirs, ours = old.identity(), new.identity()
    differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    before, asked = Budget.parse(old.training.budget), Budget.parse(new.training.budget)
    other = next((key for key in differing if key != BUDGET_KEY), None)
    if other is None and asked == before:
        return old
    if other is None and asked.unit == before.unit and asked.amount > before.amount:
        extension = Extension(earlier_budget=old.training.budget, command=new.command, date=new.started)
        return old.model_copy(update={"training": new.training, "extensions": (*old.extensions, extension)})
    key = other or BUDGET_KEY
    larger = "" if other else "a budget can be made larger in the same unit, and not smaller; "
    raise BadInput(
        f"{folder} belongs to a run with {key} = {shown(theirs.get(key))}, and {shown(ours.get(key))} was asked for; "
        f"{larger}choose another name, or delete the folder"
    )


def _content(path: Path) -> bytes | None:
    """The content of a file, None if there is none."""
    with reading(path):
        return path.read_bytes() if path.is_file() else None
