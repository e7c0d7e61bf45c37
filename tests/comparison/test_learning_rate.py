"""The choice of a learning rate from a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from litmus.comparison.plan import choose_learning_rate, learning_rate_choices
from litmus.comparison.report.formatting import sweep_sentences
from litmus.comparison.results import ComparisonResult, TrialResult

Trials = Callable[..., TrialResult]


def sweep(trial: Trials, scores: dict[float, float | None]) -> list[TrialResult]:
    return [
        trial("idea", 0, math.nan, "sweep", lr=lr, failed="diverged")
        if bpb is None
        else trial("idea", 0, bpb, "sweep", lr=lr)
        for lr, bpb in scores.items()
    ]


def test_the_lowest_score_inside_the_grid_is_chosen(trial: Trials) -> None:
    choice = choose_learning_rate("idea", sweep(trial, {1e-2: 2.5, 1e-3: 2.2, 1e-4: 2.4}))
    assert (choice.lr, choice.at_edge) == (1e-3, False)


def test_a_best_rate_at_the_edge_of_the_grid_is_marked(trial: Trials) -> None:
    choice = choose_learning_rate("idea", sweep(trial, {1e-2: 2.1, 1e-3: 2.2, 1e-4: 2.4}))
    assert (choice.lr, choice.at_edge) == (1e-2, True)


def test_a_larger_rate_that_failed_closes_the_grid(trial: Trials) -> None:
    choice = choose_learning_rate("idea", sweep(trial, {1e-2: None, 1e-3: 2.2, 1e-4: 2.4}))
    assert (choice.lr, choice.at_edge) == (1e-3, False)
    assert choice.tried[1e-2] is None


def test_when_every_rate_failed_none_is_chosen(trial: Trials) -> None:
    assert choose_learning_rate("idea", sweep(trial, {1e-2: None, 1e-3: None})).lr is None


def test_the_sweep_of_an_arm_with_a_finding_is_not_shown(
    result: Callable[..., ComparisonResult], trial: Trials
) -> None:
    swept = result({"standard": [], "idea": []}, trials=sweep(trial, {1e-2: 2.1, 1e-3: 2.2}))
    assert [choice.arm for choice in learning_rate_choices(swept)] == ["idea"]
    noted = swept.model_copy(update={"arm_notes": {"idea": "fails audit"}})
    assert learning_rate_choices(noted) == []


def test_other_arms_and_judged_trials_do_not_count(trial: Trials) -> None:
    others = [trial("standard", 0, 1.0, "sweep", lr=1.0), trial("idea", 0, 1.0, lr=1.0)]
    assert choose_learning_rate("idea", others + sweep(trial, {1e-3: 2.2})).lr == 1e-3


def test_several_seeds_of_a_rate_are_averaged(trial: Trials) -> None:
    trials = [trial("idea", seed, bpb, "sweep", lr=1e-3) for seed, bpb in enumerate((2.0, 3.0))]
    trials += [trial("idea", seed, 2.4, "sweep", lr=1e-2) for seed in range(2)]
    choice = choose_learning_rate("idea", trials)
    assert choice.lr == 1e-2
    assert choice.noise == {1e-3: pytest.approx(0.5**0.5), 1e-2: 0.0}
    assert sweep_sentences([choice]) == [
        "Learning-rate sweep of idea: 2.500 bpb (sd over seeds 0.707) at 0.001; "
        "2.400 bpb (sd over seeds 0.000) at 0.01, taken."
    ]


def test_a_sweep_of_one_seed_says_that_it_cannot_show_the_noise(trial: Trials) -> None:
    choice = choose_learning_rate("idea", sweep(trial, {1e-2: None, 1e-3: 2.2}))
    rates, noise = sweep_sentences([choice])
    assert choice.noise == {}
    assert rates == "Learning-rate sweep of idea: 2.200 bpb at 0.001, taken; failed at 0.01."
    assert "with one seed, so it cannot show" in noise
    assert sweep_sentences([]) == []
