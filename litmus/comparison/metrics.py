"""What a verdict can be about: each metric's direction and words, and the difference of two paired trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litmus.comparison.results import TrialResult
from litmus.errors import BadInput, nearest
from litmus.training import CurvePoint


@dataclass(frozen=True)
class Metric:
    """A quantity to judge arms by; `difference(baseline, arm)` is the arm's value minus the baseline's."""

    name: str
    verb: str
    less: str
    more: str
    unit: str
    lower_is_better: bool
    difference: Callable[[TrialResult, TrialResult], float]


def seconds_to_loss(curve: Sequence[CurvePoint], loss: float) -> float | None:
    """Training seconds at which the held-out curve first reaches `loss` (bits per byte), or None.

    Between two evaluations the curve is taken to be a straight line over seconds.
    """
    for before, point in zip([None, *curve], curve, strict=False):
        if point.held_out_bpb <= loss:
            if before is None or before.held_out_bpb == point.held_out_bpb:
                return point.seconds
            share = (before.held_out_bpb - loss) / (before.held_out_bpb - point.held_out_bpb)
            return before.seconds + share * (point.seconds - before.seconds)
    return None


def final_loss(trial: TrialResult) -> float:
    """Bits per byte at the end of the trial's held-out curve."""
    if not trial.curve:
        raise BadInput(
            f"{trial.arm} seed {trial.seed} has no held-out curve; the time to a loss needs evaluations during training"
        )
    return trial.curve[-1].held_out_bpb


def seconds_difference(baseline: TrialResult, arm: TrialResult) -> float:
    """The arm's seconds to a loss minus the baseline's, at the baseline's final loss if the arm reaches it.

    If it does not, both are read at the arm's own final loss, which the baseline does reach: so every pair
    has a difference, and an arm and the baseline swap signs when they swap places.
    """
    loss = max(final_loss(baseline), final_loss(arm))
    arm_seconds = seconds_to_loss(arm.curve, loss)
    baseline_seconds = seconds_to_loss(baseline.curve, loss)
    assert arm_seconds is not None and baseline_seconds is not None, "both curves end at or below this loss"
    return arm_seconds - baseline_seconds


METRICS = {
    metric.name: metric
    for metric in (
        Metric("bpb", "needs", "fewer", "more", "bits per byte", True,
               lambda baseline, arm: arm.bits_per_byte - baseline.bits_per_byte),
        Metric("seconds", "takes", "fewer", "more", "seconds to the same loss", True, seconds_difference),
        Metric("tokens_per_second", "trains on", "fewer", "more", "tokens per second", False,
               lambda baseline, arm: arm.tokens_per_second - baseline.tokens_per_second),
        Metric("peak_memory", "holds", "fewer", "more", "MB of memory at its peak", True,
               lambda baseline, arm: (arm.peak_memory_bytes - baseline.peak_memory_bytes) / 1e6),
    )
}  # fmt: skip


def metric(name: str) -> Metric:
    """The metric of that name; an unknown name is bad input."""
    if name not in METRICS:
        raise BadInput(f"no metric called {name!r} to judge arms by; {nearest(name, METRICS)}")
    return METRICS[name]
