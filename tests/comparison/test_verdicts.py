"""From paired trials to a verdict."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.statistics import t_interval
from litmus.comparison.verdicts import judge, judge_baseline, undecided
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


@pytest.mark.parametrize(("share", "word"), [(0.95, "no difference shown"), (1.05, "worse"), (-1.05, "better")])
def test_the_word_changes_where_the_interval_touches_zero(result: Results, share: float, word: str) -> None:
    spread = [-0.01, 0.01, 0.0]
    shift = share * t_interval(spread).half
    arm = [score + shift + own for score, own in zip(STANDARD, spread, strict=True)]
    [verdict] = judge(result({"standard": STANDARD, "idea": arm}))
    assert verdict.word == word


def test_the_arms_own_seeds_decide_and_not_the_noise_of_another_initialization(result: Results) -> None:
    noisy_again = [2.36, 2.26, 2.35]
    idea = [2.28, 2.301, 2.29]
    assert judge(result({"standard": STANDARD, "idea": idea}))[0].word == "better"
    assert judge(result({"standard": STANDARD, "idea": idea}, noisy_again))[0].word == "no difference shown"


def test_where_more_is_better_a_rise_is_better(result: Results) -> None:
    fast = result({"standard": STANDARD, "idea": STANDARD}, primary="tokens_per_second")
    trials = [
        trial.model_copy(update={"run": trial.run.model_copy(update={"tokens_per_second": 200.0 + trial.seed})})
        if trial.arm == "idea"
        else trial
        for trial in fast.trials
    ]
    [verdict] = judge(fast.model_copy(update={"trials": trials}))
    assert verdict.word == "better"


def test_two_arms_share_the_rate_of_false_positives(result: Results) -> None:
    close = [2.29, 2.305, 2.2905]
    [alone] = judge(result({"standard": STANDARD, "idea": close}))
    first, second = judge(result({"standard": STANDARD, "idea": close, "other": [2.33, 2.30, 2.31]}))
    assert alone.level == pytest.approx(0.05)
    assert first.level == second.level == pytest.approx(0.025)


def test_an_arm_within_the_margin_is_equivalent(result: Results) -> None:
    near = {"standard": STANDARD, "idea": [2.301, 2.3195, 2.3105]}
    [open_question] = judge(result(near))
    assert open_question.word == "no difference shown" and open_question.smallest_margin is not None
    [verdict] = judge(result(near, margin=1.01 * open_question.smallest_margin))
    assert verdict.word == "equivalent"
    [verdict] = judge(result(near, margin=0.99 * open_question.smallest_margin))
    assert verdict.word == "no difference shown"


def test_equivalence_uses_the_interval_at_twice_the_level(result: Results) -> None:
    [verdict] = judge(result({"standard": STANDARD, "idea": [2.301, 2.3195, 2.3105]}))
    differences = list(verdict.differences.values())
    inner = t_interval(differences, 0.90)
    assert verdict.smallest_margin == pytest.approx(max(-inner.low, inner.high))


def test_a_look_that_decides_an_arm_is_final_and_later_looks_need_more(result: Results) -> None:
    clear, vague = [2.20, 2.221, 2.209], [2.30, 2.33, 2.30]
    more = {"standard": [*STANDARD, 2.315], "idea": clear, "other": [*vague, 2.31]}
    decided, waiting = judge(result(more, looks=(3, 6)))
    assert (decided.word, list(decided.differences)) == ("better", [0, 1, 2])
    assert (waiting.word, list(waiting.differences)) == ("no difference shown", [0, 1, 2, 3])
    assert undecided(result(more, looks=(3, 6))) == ["other"]
    fixed = judge(result({name: scores[:3] for name, scores in more.items()}))
    assert decided.level < fixed[0].level


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
