"""Effective speed-up: how much sooner an arm reaches the loss that the baseline ends at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litmus.comparison.metrics import final_loss, seconds_to_loss
from litmus.comparison.results import TrialResult
from litmus.comparison.statistics import geometric_interval


@dataclass(frozen=True)
class Speedup:
    """Geometric mean of the ratios over paired seeds, with its interval.

    When the arm never reached the loss in some seeds (`reached` < `pairs`), `mean` is an upper bound: those
    seeds enter with the ratio they would have had by reaching it at their very end. There is no interval
    then.
    """

    mean: float
    low: float
    high: float
    reached: int
    pairs: int


def effective_speedup(pairs: Sequence[tuple[TrialResult, TrialResult]], confidence: float = 0.95) -> Speedup | None:
    """Time for the baseline to reach its final loss / time for the arm to reach it, over the pairs.

    Pairs are (baseline, arm). Training seconds only, read off the held-out curves. None where there is
    nothing to read: no pairs, no curves, or a loss that was there before any training.
    """
    ratios, reached = [], 0
    for baseline, arm in pairs:
        if not baseline.curve or not arm.curve:
            return None
        loss = final_loss(baseline)
        baseline_seconds = seconds_to_loss(baseline.curve, loss)
        arm_seconds = seconds_to_loss(arm.curve, loss)
        reached += arm_seconds is not None
        arm_seconds = arm.curve[-1].seconds if arm_seconds is None else arm_seconds
        if not baseline_seconds or not arm_seconds:
            return None
        ratios.append(baseline_seconds / arm_seconds)
    if not ratios:
        return None
    return Speedup(*geometric_interval(ratios, confidence), reached, len(ratios))
