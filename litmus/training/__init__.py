"""Training: one readable loop with its budget, schedule, optimizers, precision and checkpoints, and the final score."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litmus.training.budget import Budget
    from litmus.training.evaluation import Evaluation, evaluate
    from litmus.training.interrupts import Interrupted
    from litmus.training.loop import TrainingDiverged, train
    from litmus.training.plan import Plan, make_plan
    from litmus.training.progress import Display, display_for
    from litmus.training.result import CurvePoint, RunResult, read_result
    from litmus.training.run import LoadedRun, load_run
    from litmus.training.scoring import score_run
    from litmus.training.settings import TrainSettings

_HOME = {
    "Budget": "budget",
    "CurvePoint": "result",
    "Display": "progress",
    "Evaluation": "evaluation",
    "Interrupted": "interrupts",
    "LoadedRun": "run",
    "Plan": "plan",
    "RunResult": "result",
    "TrainSettings": "settings",
    "TrainingDiverged": "loop",
    "display_for": "progress",
    "evaluate": "evaluation",
    "load_run": "run",
    "make_plan": "plan",
    "read_result": "result",
    "score_run": "scoring",
    "train": "loop",
}
__all__ = [
    "Budget",
    "CurvePoint",
    "Display",
    "Evaluation",
    "Interrupted",
    "LoadedRun",
    "Plan",
    "RunResult",
    "TrainSettings",
    "TrainingDiverged",
    "display_for",
    "evaluate",
    "load_run",
    "make_plan",
    "read_result",
    "score_run",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something is used: the command line shows the settings' help without it."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
