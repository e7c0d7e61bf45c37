"""Super weights over a training: the search of every checkpoint that a run keeps."""

from __future__ import annotations

from collections.abc import Callable

from litmus.compression.superweights import Search, find_super_weights
from litmus.errors import BadInput
from litmus.model import load
from litmus.nn import Batch
from litmus.training.run.config import CHECKPOINTS, LoadedRun


def track_checkpoints(
    source: LoadedRun,
    batch: Batch,
    *,
    controls: int = 5,
    trust_plugin: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> dict[int, Search]:
    """The search of the run's model and of every other checkpoint that it keeps, by step; damaged ones are left out."""
    folder = source.folder / CHECKPOINTS
    if not folder.is_dir():
        raise BadInput("--track searches the checkpoints of a run, and this model has none")
    found: dict[int, Search] = {}
    for step in sorted({source.step, *(int(path.name) for path in folder.iterdir() if path.name.isdecimal())}):
        try:
            own = step == source.step
            model = source.model if own else load(folder / str(step), trust_plugin=trust_plugin).eval()
        except BadInput as damage:
            log(f"checkpoint {step} is left out: {damage}")
            continue
        found[step] = find_super_weights(model, batch, controls=controls)
    return found
