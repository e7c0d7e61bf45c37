"""The statistics behind a verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from litmus.comparison.statistics import (
    PRIOR_DOF,
    geometric_interval,
    holm,
    minimum_detectable_difference,
    moderated_estimates,
    power,
    seeds_needed,
    sequential_level,
    t_interval,
)

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


def test_moderated_variance_follows_its_formula() -> None:
    first, second = moderated_estimates([[0.1, 0.2, 0.3], [0.10, 0.12, 0.14]])
    prior = 1 / (1 / PRIOR_DOF + 1 / 2)  # the other group has two degrees of freedom
    variance = (prior * 0.02**2 + 2 * 0.1**2) / (prior + 2)
    assert (first.mean, first.sd) == (pytest.approx(0.2), pytest.approx(0.1))
    assert first.error == pytest.approx(math.sqrt(variance / 3))
    assert first.dof == second.dof == pytest.approx(prior + 2)


def test_one_group_alone_has_students_interval() -> None:
    sample = [1.0, 2.0, 3.5]
    [estimate] = moderated_estimates([sample])
    assert estimate.interval(0.05).half == pytest.approx(t_interval(sample).half)
    assert estimate.p_value == pytest.approx(stats.ttest_1samp(sample, 0).pvalue)


def test_retrained_baselines_add_a_group_around_zero() -> None:
    [alone] = moderated_estimates([[1.0, 2.0, 3.0]])
    [helped] = moderated_estimates([[1.0, 2.0, 3.0]], null=[0.1, -0.1, 0.1])
    assert helped.dof > alone.dof and helped.error < alone.error


def test_arms_that_share_a_baseline_count_for_fewer_degrees_of_freedom() -> None:
    three, nine = (moderated_estimates([[0.0, 1.0]] * count)[0].prior_dof for count in (3, 9))
    assert three == pytest.approx(1 / (1 / PRIOR_DOF + 1.25 / 2))
    assert three < nine < PRIOR_DOF


@given(st.lists(st.lists(st.floats(-100, 100), min_size=2, max_size=6), min_size=1, max_size=4))
def test_the_interval_excludes_zero_exactly_below_its_level(groups: list[list[float]]) -> None:
    for estimate in moderated_estimates(groups):
        for level in (0.01, 0.05, 0.3):
            if abs(estimate.p_value - level) > 1e-6:
                assert estimate.interval(level).excludes_zero == (estimate.p_value < level)


def test_holm_tests_the_smallest_at_a_third_and_stops_at_the_first_that_is_kept() -> None:
    assert holm([0.001, 0.02, 0.04], 0.05) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert holm([0.04, 0.03, 0.001], 0.05) == pytest.approx([0.05 / 2, 0.05 / 2, 0.05 / 3])
    assert holm([0.5, 0.2], 0.05) == pytest.approx([0.025, 0.025])
    assert holm([0.5, 0.001], 0.05, level=lambda alpha: alpha / 10) == pytest.approx([0.005, 0.0025])


@pytest.mark.parametrize("looks", [(2, 4), (3, 12), (5, 8)])
def test_the_level_per_look_keeps_the_rate_over_all_looks(looks: tuple[int, int]) -> None:
    level = sequential_level(*looks, 0.05)
    sample = np.random.default_rng(5).normal(size=(20_000, looks[1]))
    called = np.zeros(len(sample), dtype=bool)
    for count in range(looks[0], looks[1] + 1):
        called |= stats.ttest_1samp(sample[:, :count], 0, axis=1).pvalue <= level
    assert called.mean() == pytest.approx(0.05, abs=0.006)
    assert 0.05 / (looks[1] - looks[0] + 1) < level < 0.05


@pytest.mark.parametrize("dof", [1.5, 2, 4.7, 19])
@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_power_is_the_noncentral_t(dof: float, size: float) -> None:
    critical = stats.t.isf(0.025, dof)
    assert power(size, 0.5, dof, 0.05) == pytest.approx(stats.nct.sf(critical, dof, size / 0.5), abs=1e-9)


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_minimum_detectable_difference_has_80_percent_power(level: float) -> None:
    smallest = minimum_detectable_difference(0.01, 2, level)
    assert power(smallest, 0.01, 2, level) == pytest.approx(0.8, abs=1e-3)


def test_the_variance_of_other_groups_shows_smaller_differences() -> None:
    alone, pooled = (minimum_detectable_difference(1 / math.sqrt(3), dof, 0.05) for dof in (2, 6))
    assert (alone, pooled) == (pytest.approx(3.264, abs=1e-3), pytest.approx(1.944, abs=1e-3))


def test_seeds_that_never_vary_show_any_difference() -> None:
    [same] = moderated_estimates([[0.01, 0.01, 0.01]])
    assert same.p_value < 1e-9
    assert minimum_detectable_difference(0.0, 2, 0.05) == 0.0


def test_seeds_needed_are_the_fewest_with_enough_power() -> None:
    estimate = moderated_estimates([[-0.01, 0.0, -0.02]])[0]
    needed = seeds_needed(-0.01, estimate, 0.05)
    assert needed is not None
    sd = estimate.error * math.sqrt(3)
    enough, fewer = (power(0.01, sd / math.sqrt(count), count - 1, 0.05) for count in (needed, needed - 1))
    assert enough >= 0.8 > fewer


def test_a_difference_too_small_for_a_thousand_seeds_has_no_count() -> None:
    [estimate] = moderated_estimates([[0.01, -0.01, 0.00001]])
    assert seeds_needed(1e-5, estimate, 0.05) is None
    # scipy.special.nctdtr(999, 38.6, 1.96) is nan
    wide = [-0.041, 0.028, -0.126, -0.123, -0.104]
    assert 5 < (seeds_needed(0.073, moderated_estimates([wide])[0], 0.05) or 0) < 12
    assert seeds_needed(0.0, moderated_estimates([[0.0, 0.0]])[0], 0.05) is None
