"""From paired trials to a verdict."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.statistics import Interval
from litmus.comparison.verdicts import decide, judge, judge_baseline, measure_noise
from litmus.errors import BadInput

Results = Callable[..., ComparisonResult]
Trials = Callable[..., TrialResult]

STANDARD = [2.30, 2.32, 2.31]
AGAIN = [2.302, 2.319, 2.309]


def test_a_gain_on_every_seed_beyond_the_noise_is_better(result: Results) -> None:
    [verdict] = judge(result({"standard": STANDARD, "idea": [2.20, 2.221, 2.209]}, AGAIN))
    assert verdict.word == "better"
    assert verdict.differences == pytest.approx({0: -0.1, 1: -0.099, 2: -0.101})


def test_the_same_distance_the_other_way_is_worse(result: Results) -> None:
    [verdict] = judge(result({"standard": STANDARD, "idea": [2.40, 2.421, 2.409]}, AGAIN))
    assert verdict.word == "worse"


def test_an_interval_that_includes_zero_shows_no_difference_and_states_the_power(
    result: Results,
) -> None:
    [verdict] = judge(result({"standard": STANDARD, "idea": [2.28, 2.33, 2.30]}, AGAIN))
    assert verdict.word == "no difference shown"
    assert verdict.difference is not None and not verdict.difference.excludes_zero
    assert verdict.minimum_detectable is not None and verdict.minimum_detectable > abs(verdict.difference.mean)
    assert verdict.seeds_needed is not None and verdict.seeds_needed > 3


def test_a_difference_inside_the_noise_floor_is_not_shown_however_narrow_its_interval(result: Results) -> None:
    noisy_again = [2.36, 2.26, 2.35]
    [verdict] = judge(result({"standard": STANDARD, "idea": [2.29, 2.311, 2.30]}, noisy_again))
    assert verdict.difference is not None and verdict.difference.excludes_zero
    assert verdict.word == "no difference shown"


def test_where_more_is_better_a_rise_is_better() -> None:
    rise = Interval(mean=10.0, low=8.0, high=12.0, sd=1.0, count=3)
    assert decide(rise, 1.0, lower_is_better=False) == "better"
    assert decide(rise, 1.0, lower_is_better=True) == "worse"


def test_one_seed_is_bad_input(result: Results) -> None:
    with pytest.raises(BadInput, match=r"at least 2 seeds.*has 1"):
        judge(result({"standard": [2.3], "idea": [2.2]}))


def test_a_finding_stands_in_place_of_a_verdict(result: Results) -> None:
    leaking = result(
        {"standard": STANDARD, "leak": [1.1, 1.1, 1.1]}, arm_notes={"leak": "fails audit: sees the future"}
    )
    [verdict] = judge(leaking)
    assert (verdict.word, verdict.reason) == ("no verdict", "fails audit: sees the future")
    assert verdict.differences == {}


def test_an_arm_with_a_failed_trial_is_not_judged_by_the_survivors(result: Results, trial: Trials) -> None:
    survivors = result({"standard": STANDARD, "idea": [2.10, 2.11]})
    failed = trial("idea", 2, 9.0, bits_per_byte=float("nan"), failed="diverged at step 4")
    [verdict] = judge(survivors.model_copy(update={"trials": [*survivors.trials, failed]}))
    assert verdict.word == "no verdict"
    assert "1 of its 3 trials failed (seed 2: diverged at step 4)" in verdict.reason


def test_an_arm_that_shares_one_seed_with_the_baseline_gets_no_verdict(result: Results) -> None:
    [verdict] = judge(result({"standard": STANDARD, "idea": [2.1]}))
    assert verdict.word == "no verdict"


def test_trials_are_paired_by_seed_whatever_their_order_and_without_those_that_lack_a_partner(
    result: Results, trial: Trials
) -> None:
    baseline = result({"standard": [2.0, 2.5, 3.0], "idea": []})
    arms = [trial("idea", 2, 3.1), trial("idea", 7, 9.0), trial("idea", 1, 2.7)]
    [verdict] = judge(baseline.model_copy(update={"trials": [*baseline.trials, *arms]}))
    assert verdict.differences == pytest.approx({1: 0.2, 2: 0.1})


def test_noise_is_measured_on_the_retrained_baseline(result: Results) -> None:
    noise = measure_noise(result({"standard": [2.0, 2.5], "idea": [2.0, 2.5]}, again=[2.1, 2.4]))
    assert (noise.source, noise.pairs) == ("retrained", 2)
    assert noise.rms == pytest.approx(0.1)


def test_without_retraining_noise_is_the_spread_of_the_baselines_seeds(result: Results) -> None:
    noise = measure_noise(result({"standard": [2.0, 2.5], "idea": [2.0, 2.5]}))
    assert noise.source == "seeds"
    assert noise.rms == pytest.approx(0.5)


def test_the_baseline_against_itself_is_judged_by_its_interval(result: Results) -> None:
    same = judge_baseline(result({"standard": STANDARD, "idea": STANDARD}, AGAIN))
    assert same is not None and same.word == "no difference shown"
    called = judge_baseline(result({"standard": STANDARD, "idea": STANDARD}, [2.40, 2.421, 2.409]))
    assert called is not None and called.word != "no difference shown"


def test_without_two_retrained_seeds_the_baseline_is_not_judged(result: Results) -> None:
    assert judge_baseline(result({"standard": STANDARD, "idea": STANDARD}, AGAIN[:1])) is None


def test_an_unknown_metric_is_bad_input_that_names_the_nearest(result: Results) -> None:
    with pytest.raises(BadInput, match="unknown metric 'second'; did you mean 'seconds'"):
        judge(result({"standard": STANDARD, "idea": STANDARD}, primary="second"))
