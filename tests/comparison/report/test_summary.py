"""The row of each arm."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litmus.comparison.report.summary import summarize
from litmus.comparison.results import ComparisonResult, TrialResult

Results = Callable[..., ComparisonResult]
Trials = Callable[..., TrialResult]


def test_rows_keep_the_order_of_the_arms_and_the_baseline_is_judged_against_itself(result: Results) -> None:
    rows = summarize(result({"standard": [2.3, 2.4], "b": [2.3, 2.4], "a": [2.3, 2.4]}, [2.31, 2.39]))
    assert [row.arm for row in rows] == ["standard", "b", "a"]
    assert rows[0].verdict is not None and rows[0].verdict.arm == "standard"
    assert rows[0].speedup is None


def test_speed_is_the_median_and_memory_the_largest_over_trials(result: Results, trial: Trials) -> None:
    trials = [
        trial("standard", seed, 2.3, tokens_per_second=speed, peak_memory_bytes=memory)
        for seed, (speed, memory) in enumerate([(100.0, 5), (110.0, 9), (10.0, 7)])
    ]
    [row] = summarize(result({"standard": []}, trials=trials))
    assert (row.tokens_per_second, row.peak_memory_bytes) == (100.0, 9)


def test_an_arm_that_was_never_trained_has_no_numbers(result: Results) -> None:
    [_, row] = summarize(result({"standard": [2.3, 2.4], "leak": []}, arm_notes={"leak": "fails audit"}))
    assert (row.seeds, row.parameters, row.bits_per_byte, row.speedup) == (0, None, None, None)
    assert row.verdict is not None and row.verdict.word == "no verdict"


def test_an_arm_with_a_note_keeps_its_costs_and_loses_its_score(result: Results) -> None:
    [_, row] = summarize(result({"standard": [2.3, 2.4], "leak": [0.1, 0.1]}, arm_notes={"leak": "fails audit"}))
    assert row.parameters == 1_700_000
    assert row.bits_per_byte is None


def test_the_interval_of_a_score_is_over_its_seeds(result: Results) -> None:
    [row, _] = summarize(result({"standard": [2.3, 2.4], "idea": [2.3, 2.4]}))
    assert row.bits_per_byte is not None
    assert (row.bits_per_byte.mean, row.bits_per_byte.count) == (pytest.approx(2.35), 2)
