"""Error rates on simulated trials: false positives for equal arms, and the power to detect a real gain.

bench/verdict_rates.py measures the same with more repeats and writes docs/results/verdict_rates.md.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench import verdict_rates

REPEATS = 4000


@pytest.mark.parametrize(
    ("rule", "arms", "spread"),
    [("new 3", 1, 0.0), ("new 3", 2, 0.35), ("new 3", 4, 0.0), ("new 5", 2, 0.7), ("new 3..6", 2, 0.35)],
)
def test_equal_arms_are_called_different_in_at_most_one_comparison_of_twenty(
    rule: str, arms: int, spread: float
) -> None:
    wrong, _, _ = verdict_rates.rates(rule, arms, spread, 0.0, REPEATS)
    assert wrong <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / REPEATS)


@pytest.mark.parametrize(("rule", "spread", "prior"), [("new 3", 0.0, 1), ("new 3", 0.7, 1), ("new 3..6", 0.0, 3)])
def test_a_prior_keeps_the_rate_of_false_calls_and_adds_power(rule: str, spread: float, prior: int) -> None:
    wrong, _, _ = verdict_rates.rates(rule, 1, spread, 0.0, REPEATS, prior)
    assert wrong <= 0.055
    with_prior, without = (verdict_rates.rates("new 3", 1, 0.0, 2.0, 500, number)[1] for number in (prior, 0))
    assert with_prior > without + 0.1


def test_power_rises_with_the_gain_and_with_the_seeds() -> None:
    by_gain = [verdict_rates.rates("new 5", 2, 0.0, gain, 500)[1] for gain in (0.5, 1.0, 2.0, 4.0)]
    by_seeds = [verdict_rates.rates(f"new {count}", 2, 0.0, 1.5, 500)[1] for count in (2, 3, 5, 10)]
    assert by_gain == sorted(by_gain) and by_gain[-1] > 0.98
    assert by_seeds == sorted(by_seeds) and by_seeds[-1] > 0.9


def test_adding_seeds_until_decided_takes_fewer_for_larger_gains() -> None:
    used = [verdict_rates.rates("new 3..12", 1, 0.0, gain, 300)[2] for gain in (1.0, 2.0, 4.0)]
    assert used == sorted(used, reverse=True) and used[-1] < 4
