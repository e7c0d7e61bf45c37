"""Opening a run folder for a training: made, repaired, gone on with, extended or refused; nothing in it is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from litmus.data import Tokenizer
from litmus.data.tokenizer import FILE_NAME
from litmus.errors import BadInput, shown
from litmus.files import file_names, reading, remove_leftovers, write_atomically, writing
from litmus.model.recipe import Recipe
from litmus.model.storage import RECIPE
from litmus.training.budget import Budget
from litmus.training.result import RESULT
from litmus.training.run import (
    AUDIT,
    CHECKPOINTS,
    METRICS,
    RUN,
    TOKENIZER,
    Description,
    Extension,
    as_yaml,
    read_description,
    sha256,
)

BUDGET = "training.budget"
TOKENIZER_FILE = f"{TOKENIZER}/{FILE_NAME}"

Announce = Callable[[str], None]


def open_run(
    folder: Path, new: Description, recipe: Recipe, tokenizer: Tokenizer, *, resume: bool, announce: Announce
) -> Description:
    """The description of the training that goes on in `folder`, which this process has locked: `new`, or the one there.

    A folder with nothing in it becomes a run; so does one whose training never took a step (its audit failed, say),
    if it holds only what we wrote. A folder of this very training is gone on with, and with a larger budget extended.
    Files of it that are missing or damaged are written again where run.yaml and the data tell them; BadInput where they
    do not, and for any other folder. run.yaml is written first: a kill at any moment leaves what the same call opens.
    """
    real = Path(os.path.realpath(folder))
    if os.path.lexists(real) and not real.is_dir():
        found = "a file" if real.is_file() else "not a folder"
        raise BadInput(f"{folder} is {found}; a run needs a folder of its own, so choose another name")
    with writing(folder):
        real.mkdir(parents=True, exist_ok=True)
        remove_leftovers(real)
    for name in (RUN, RECIPE, TOKENIZER_FILE, METRICS, RESULT, AUDIT):
        if (folder / name).exists() and not (folder / name).is_file():
            raise BadInput(f"{folder / name} is not a file, where the run has one; move it away")
    description, old = new, None
    if os.path.lexists(folder / RUN):
        old = read_description(folder)
        if began(folder) or not _only_ours(folder, old):
            if not resume:
                raise BadInput(f"{folder} already holds a run; resume it, choose another name, or delete the folder")
            description = _gone_on(folder, old, new)
    elif others := [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]:
        names = ", ".join(shown(name, quoted=False) for name in others[:3])
        raise BadInput(
            f"{folder} is not a run folder: it holds {names} and no {RUN}; choose another name, restore {RUN}, or "
            f"delete the folder"
        )
    if description != old:
        write_atomically(folder / RUN, description.to_yaml())
    for name, content in ((RECIPE, recipe.to_yaml()), (TOKENIZER_FILE, tokenizer.to_json())):
        if _content(folder / name) != content.encode():
            write_atomically(folder / name, content)
            if description is not new:
                announce(f"{folder / name} was missing or damaged, and is written again")
    return description


def began(folder: Path) -> bool:
    """Whether there is anything of a training's work in the folder: a step, a checkpoint or a result."""
    checkpoints, metrics = folder / CHECKPOINTS, folder / METRICS
    with reading(folder):
        if checkpoints.is_dir():
            saved = any(not path.name.startswith(".") for path in checkpoints.iterdir())
        else:
            saved = os.path.lexists(checkpoints)
        stepped = metrics.stat().st_size > 0 if metrics.is_file() else os.path.lexists(metrics)
    return saved or stepped or os.path.lexists(folder / RESULT)


def _only_ours(folder: Path, old: Description) -> bool:
    """Whether a run that never took a step holds only files that we wrote, and as we wrote them."""
    others = set(file_names(folder)) - {RUN, RECIPE, TOKENIZER_FILE, METRICS, AUDIT}
    if others or _content(folder / RUN) != old.to_yaml().encode():
        return False
    recipe, tokenizer = _content(folder / RECIPE), _content(folder / TOKENIZER_FILE)
    return recipe in (None, as_yaml(old.recipe).encode()) and (
        tokenizer is None or sha256(tokenizer) == old.tokenizer_sha256
    )


def _gone_on(folder: Path, old: Description, new: Description) -> Description:
    """`old` if `new` is the same training, extended if it has only a larger budget; BadInput names what differs."""
    theirs, ours = old.identity(), new.identity()
    differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    before, asked = Budget.parse(old.training.budget), Budget.parse(new.training.budget)
    other = next((key for key in differing if key != BUDGET), None)
    if other is None and asked == before:
        return old
    if other is None and asked.unit == before.unit and asked.amount > before.amount:
        extension = Extension(earlier_budget=old.training.budget, command=new.command, date=new.started)
        return old.model_copy(update={"training": new.training, "extensions": (*old.extensions, extension)})
    key = other or BUDGET
    larger = "" if other else "a budget can be made larger in the same unit, and not smaller; "
    raise BadInput(
        f"{folder} belongs to a run with {key} = {shown(theirs.get(key))}, and {shown(ours.get(key))} was asked for; "
        f"{larger}choose another name, or delete the folder"
    )


def _content(path: Path) -> bytes | None:
    """What a file holds, None where there is none."""
    with reading(path):
        return path.read_bytes() if path.is_file() else None
