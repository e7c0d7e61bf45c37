"""Which learning rate an arm's sweep chose, and whether the grid was wide enough to say so."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from litmus.comparison.results import ComparisonResult, TrialResult


@dataclass(frozen=True)
class LearningRateChoice:
    """An arm's best learning rate: None when every trial of the sweep failed.

    `tried` maps each rate to its mean bits per byte, or None where a trial failed. `at_edge` is True when
    the best rate is the smallest or largest tried, so that a better one may lie outside the grid.
    """

    arm: str
    lr: float | None
    at_edge: bool
    tried: dict[float, float | None]


def choose_learning_rate(arm: str, trials: list[TrialResult]) -> LearningRateChoice:
    """Pick the rate with the lowest mean bits per byte in the arm's sweep; a rate that failed once is out."""
    by_rate: dict[float, list[TrialResult]] = defaultdict(list)
    for trial in trials:
        if trial.arm == arm and trial.role == "sweep":
            by_rate[trial.lr].append(trial)
    tried: dict[float, float | None] = {}
    for lr, group in sorted(by_rate.items()):
        failed = any(trial.failed is not None for trial in group)
        tried[lr] = None if failed else float(np.mean([trial.bits_per_byte for trial in group]))
    scores = {lr: score for lr, score in tried.items() if score is not None}
    if not scores:
        return LearningRateChoice(arm, None, False, tried)
    best = min(scores, key=lambda lr: scores[lr])
    return LearningRateChoice(arm, best, best in (min(tried), max(tried)), tried)


def learning_rate_choices(result: ComparisonResult) -> list[LearningRateChoice]:
    """The choice of every arm that was swept, but for arms whose score a note stands in place of."""
    swept = [arm for arm in result.arms if result.trials_of(arm, "sweep") and arm not in result.arm_notes]
    return [choose_learning_rate(arm, result.trials) for arm in swept]
