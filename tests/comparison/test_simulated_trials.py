"""Error rates on simulated trials: false positives for equal arms, and the power to detect a real gain.

A trial's score is the arm's quality + the effect of its data order (shared by all trials of a seed, so pairs are
correlated) + the effect of its initialization.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from litmus.comparison.results import ComparisonResult
from litmus.comparison.statistics import estimate_noise, t_interval
from litmus.comparison.verdicts import decide, judge

SIMULATIONS = 4000
ORDER_SD, INIT_SD = 0.010, 0.005


def words(count: int, gain: float = 0.0, retrained: bool = True, simulations: int = SIMULATIONS) -> list[str]:
    """The verdict of each simulated comparison, with noise from A/A pairs or from the baseline's seeds."""
    random = np.random.default_rng(count)
    verdicts = []
    for order, *inits in zip(
        random.normal(2.3, ORDER_SD, (simulations, count)),
        *random.normal(0, INIT_SD, (3, simulations, count)),
        strict=True,
    ):
        baseline, arm, again = order + inits[0], order + inits[1] - gain, order + inits[2]
        every_two = [b - a for i, a in enumerate(baseline) for b in baseline[i + 1 :]]
        noise = estimate_noise(again - baseline, "retrained") if retrained else estimate_noise(every_two, "seeds")
        verdicts.append(decide(t_interval(arm - baseline), noise.floor(count), lower_is_better=True))
    return verdicts


@pytest.mark.parametrize("retrained", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_equal_arms_are_called_different_in_at_most_one_comparison_of_twenty(count: int, retrained: bool) -> None:
    called = np.mean([word != "no difference shown" for word in words(count, retrained=retrained)])
    assert called <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_power_rises_with_the_gain_and_with_the_seeds() -> None:
    by_gain = [words(5, gain, simulations=500).count("better") for gain in (0.0, 0.005, 0.010, 0.020, 0.040)]
    by_seeds = [words(count, 0.010, simulations=500).count("better") for count in (2, 3, 5, 10)]
    assert by_gain == sorted(by_gain) and by_gain[-1] > 490
    assert by_seeds == sorted(by_seeds) and by_seeds[-1] > 400


def test_a_real_gain_is_never_called_worse_when_it_is_large() -> None:
    assert "worse" not in words(3, gain=0.05)


def test_whole_comparisons_of_equal_arms_stay_within_one_in_twenty(
    result: Callable[..., ComparisonResult],
) -> None:
    random, called = np.random.default_rng(7), 0
    for _ in range(300):
        order = random.normal(2.3, ORDER_SD, 3)
        baseline, arm, again = (list(order + random.normal(0, INIT_SD, 3)) for _ in range(3))
        [verdict] = judge(result({"standard": baseline, "idea": arm}, again=again))
        called += verdict.word != "no difference shown"
    assert called / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
