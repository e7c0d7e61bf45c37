"""Time to a loss and effective speed-up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from litmus.comparison.report.summary import effective_speedup
from litmus.comparison.results import TrialResult
from litmus.comparison.verdicts import seconds_difference, seconds_to_loss
from litmus.training.run.result import CurvePoint

Trials = Callable[..., TrialResult]


def falling(slope: float, start: float = 3.0, end: int = 10) -> list[CurvePoint]:
    """A held-out curve that loses `slope` bits per byte a second."""
    return [
        CurvePoint(step=s, tokens=s, seconds=float(s), train_loss=2.0, val_loss=2.0, val_bpb=start - slope * s)
        for s in range(1, end + 1)
    ]


def test_time_to_a_loss_is_read_between_two_evaluations() -> None:
    assert seconds_to_loss(falling(0.1), 2.55) == pytest.approx(4.5)


def test_a_loss_never_reached_has_no_time() -> None:
    assert seconds_to_loss(falling(0.1), 1.0) is None


def test_an_arm_twice_as_fast_down_the_curve_has_a_speedup_of_two(trial: Trials) -> None:
    pairs = [
        (trial("standard", seed, 2.0, curve=falling(0.1)), trial("idea", seed, 1.0, curve=falling(0.2)))
        for seed in range(3)
    ]
    speedup = effective_speedup(pairs)
    assert speedup is not None
    assert (speedup.mean, speedup.low, speedup.high) == pytest.approx((2.0, 2.0, 2.0))
    assert speedup.reached == 3


def test_an_arm_that_ends_above_the_baseline_has_not_reached_it_and_a_bound_instead(trial: Trials) -> None:
    slow = trial("idea", 0, 2.5, curve=falling(0.05, end=8))
    speedup = effective_speedup([(trial("standard", 0, 2.0, curve=falling(0.1)), slow)])
    assert speedup is not None
    assert (speedup.reached, speedup.pairs) == (0, 1)
    assert speedup.mean == pytest.approx(10 / 8)


def test_there_is_no_speedup_without_pairs_or_curves(trial: Trials) -> None:
    assert effective_speedup([]) is None
    assert effective_speedup([(trial("standard", 0, 2.0), trial("idea", 0, 2.0, curve=[]))]) is None


def test_seconds_to_the_same_loss_swap_signs_when_the_trials_swap_places(trial: Trials) -> None:
    one = trial("standard", 0, 2.0, curve=falling(0.1))
    other = trial("idea", 0, 2.4, curve=falling(0.06))
    assert seconds_difference(one, other) == pytest.approx(4.0)
    assert seconds_difference(one, other) == -seconds_difference(other, one)
    assert not math.isnan(seconds_difference(one, one)) and seconds_difference(one, one) == 0
