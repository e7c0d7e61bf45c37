"""Stored results: what survives a round trip, what is refused, and files of older versions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.errors import BadInput

Results = Callable[..., ComparisonResult]
Trials = Callable[..., TrialResult]


def test_a_result_reads_back_as_it_was_saved(result: Results, tmp_path: Path) -> None:
    saved = result({"standard": [2.3, 2.4], "idea": [2.2, 2.3]}, [2.3, 2.4], context={"command": "litmus compare"})
    saved.save(tmp_path / "comparison.json")
    assert ComparisonResult.load(tmp_path / "comparison.json") == saved


def test_the_scores_of_a_failed_trial_may_be_nan_and_survive_saving(
    result: Results, trial: Trials, tmp_path: Path
) -> None:
    failed = trial("idea", 0, 9.0, bits_per_byte=math.nan, loss_by_position=[math.inf], failed="diverged at step 4")
    both = result({"standard": [2.3], "idea": []})
    both.model_copy(update={"trials": [*both.trials, failed]}).save(tmp_path / "comparison.json")
    [back] = ComparisonResult.load(tmp_path / "comparison.json").trials_of("idea")
    assert math.isnan(back.bits_per_byte) and back.evaluation.loss_by_position == [math.inf]
    assert back.failed == "diverged at step 4"


def test_a_nan_score_without_a_reason_is_refused(trial: Trials) -> None:
    with pytest.raises(ValidationError, match="needs a reason"):
        trial("idea", 0, math.nan)


def test_two_trials_of_one_seed_are_refused(result: Results, trial: Trials) -> None:
    once = result({"standard": [2.3, 2.4]})
    with pytest.raises(ValidationError, match="two arm trials of 'standard' with seed 1"):
        ComparisonResult.model_validate({**dict(once), "trials": [*once.trials, trial("standard", 1, 2.2)]})


def test_a_trial_of_an_arm_that_is_not_compared_is_refused(result: Results, trial: Trials) -> None:
    with pytest.raises(ValidationError, match="did you mean 'standard'"):
        result({"standard": [2.3]}, trials=[trial("standrd", 0, 2.2)])


def test_only_the_baseline_may_be_trained_again(result: Results, trial: Trials) -> None:
    with pytest.raises(ValidationError, match="noise trial of 'idea'"):
        result({"standard": [2.3], "idea": [2.3]}, trials=[trial("idea", 0, 2.2, "noise")])


def test_scores_over_different_held_out_bytes_are_refused(result: Results, trial: Trials) -> None:
    with pytest.raises(ValidationError, match="the same bytes"):
        result({"standard": []}, trials=[trial("standard", seed, 2.3, val_bytes=seed) for seed in range(2)])


@pytest.mark.parametrize("content", [b"", b'{"name": "half', b"{}", b"\xff\xfe\x00"])
def test_a_file_that_is_not_a_result_is_bad_input_that_names_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"broken\.json"):
        ComparisonResult.load(tmp_path / "broken.json")


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file"):
        ComparisonResult.load(tmp_path / "none.json")
