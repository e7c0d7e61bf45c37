"""The statistics behind a verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from litmus.comparison.statistics import (
    Noise,
    estimate_noise,
    geometric_interval,
    minimum_detectable_difference,
    power,
    seeds_needed,
    t_interval,
)

NO_FLOOR = Noise(0.0, 3, "retrained")
values = st.lists(st.floats(-100, 100), min_size=2, max_size=10)


def test_the_interval_is_students() -> None:
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.sd == 1.0
    assert interval.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_a_single_value_has_an_infinite_interval() -> None:
    interval = t_interval([2.0])
    assert interval.half == math.inf
    assert not interval.excludes_zero


@given(values, st.floats(-50, 50))
def test_shifting_the_values_shifts_the_interval(sample: list[float], shift: float) -> None:
    before, after = t_interval(sample), t_interval([value + shift for value in sample])
    assert after.low == pytest.approx(before.low + shift, abs=1e-6)
    assert after.high == pytest.approx(before.high + shift, abs=1e-6)


def test_the_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    mean, low, high = geometric_interval([2.0, 0.5])
    assert mean == pytest.approx(1.0)
    assert low == pytest.approx(1 / high)


@given(values)
def test_noise_from_every_two_seeds_is_their_spread_times_root_two(sample: list[float]) -> None:
    every_two = [b - a for i, a in enumerate(sample) for b in sample[i + 1 :]]
    assert estimate_noise(every_two, "seeds").rms == pytest.approx(math.sqrt(2) * np.std(sample, ddof=1), abs=1e-9)


def test_the_noise_floor_shrinks_with_the_root_of_the_seeds() -> None:
    noise = estimate_noise([0.1, -0.1], "retrained")
    assert noise.floor(1) == pytest.approx(0.196, abs=1e-3)
    assert noise.floor(4) == pytest.approx(noise.floor(1) / 2)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_power_without_a_floor_is_the_noncentral_t(count: int, size: float) -> None:
    critical = stats.t.ppf(0.975, count - 1)
    expected = stats.nct.sf(critical, count - 1, size * math.sqrt(count))
    assert power(size, 1.0, NO_FLOOR, count) == pytest.approx(expected, abs=2e-3)


def test_power_with_a_floor_is_how_often_simulated_seeds_show_the_difference() -> None:
    noise, random = Noise(1.2, 3, "retrained"), np.random.default_rng(0)
    shown, sample = 0, random.normal(1.5, 1.0, size=(20000, 4))
    critical = stats.t.ppf(0.975, 3)
    means, halves = sample.mean(axis=1), critical * sample.std(axis=1, ddof=1) / 2
    shown = np.mean((means > halves) & (means > noise.floor(4)))
    assert power(1.5, 1.0, noise, 4) == pytest.approx(shown, abs=0.012)


@pytest.mark.parametrize("noise", [NO_FLOOR, Noise(0.02, 3, "retrained")])
def test_the_minimum_detectable_difference_has_80_percent_power(noise: Noise) -> None:
    smallest = minimum_detectable_difference(0.01, noise, 3)
    assert power(smallest, 0.01, noise, 3) == pytest.approx(0.8, abs=1e-3)


def test_more_seeds_show_smaller_differences() -> None:
    shown = [minimum_detectable_difference(0.01, NO_FLOOR, count) for count in (2, 3, 5, 10, 30)]
    assert shown == sorted(shown, reverse=True)


def test_seeds_that_never_vary_show_any_difference() -> None:
    assert minimum_detectable_difference(0.0, NO_FLOOR, 3) == 0.0


def test_seeds_needed_are_the_fewest_with_enough_power() -> None:
    needed = seeds_needed(-0.01, 0.01, NO_FLOOR)
    assert needed is not None
    assert power(0.01, 0.01, NO_FLOOR, needed) >= 0.8 > power(0.01, 0.01, NO_FLOOR, needed - 1)


def test_a_difference_too_small_for_a_thousand_seeds_has_no_count() -> None:
    assert seeds_needed(1e-5, 0.01, NO_FLOOR) is None
    assert seeds_needed(0.0, 0.0, NO_FLOOR) is None
