"""The table in the terminal and the sentences below it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest

from litmus.comparison.report.formatting import format_lr, format_number, format_si
from litmus.comparison.report.table import print_table
from litmus.comparison.results import ComparisonResult, TrialResult

Results = Callable[..., ComparisonResult]
Trials = Callable[..., TrialResult]

SCORES = {
    "standard": [2.30, 2.32, 2.31],
    "gated": [2.20, 2.221, 2.209],
    "nope": [2.40, 2.421, 2.409],
    "ssmax": [2.28, 2.33, 2.30],
    "leak": [0.3, 0.3, 0.3],
}
AGAIN = [2.302, 2.319, 2.309]
NOTES = {"leak": "fails audit: sees the future"}


@pytest.fixture
def printed(result: Results) -> str:
    output = io.StringIO()
    print_table(result(SCORES, AGAIN, arm_notes=NOTES), output)
    return output.getvalue()


def test_every_line_fits_100_columns_and_is_plain_text(printed: str) -> None:
    assert max(len(line) for line in printed.splitlines()) <= 100
    assert "\x1b" not in printed


def test_every_arm_has_a_sentence_that_says_its_verdict(printed: str) -> None:
    text = " ".join(printed.split())
    assert re.search(r"gated is better than standard: it needs 0\.100* fewer bits per byte", text)
    assert re.search(r"nope is worse than standard: it needs 0\.100* more bits per byte", text)
    assert "No difference shown between ssmax and standard" in text
    assert "leak gets no verdict: fails audit: sees the future." in text
    assert "standard against itself (same data, another initialization): no difference shown" in text


def test_a_finding_stands_in_place_of_the_score(printed: str) -> None:
    assert "0.300" not in printed


def test_no_difference_shown_states_the_power(printed: str) -> None:
    text = " ".join(printed.split())
    assert re.search(
        r"With 3 seeds there is 80 % power to detect a true difference of 0\.\d+ bpb or more; "
        r"detecting one as small as observed \(0\.\d+\) would take about \d+ seeds\. "
        r"The arms are equivalent within 0\.\d+ bpb\.",
        text,
    )


def test_the_baseline_is_called_out_when_it_differs_from_itself(result: Results) -> None:
    output = io.StringIO()
    print_table(result({"standard": [2.30, 2.32, 2.31], "idea": [2.3, 2.3, 2.3]}, [2.40, 2.421, 2.409]), output)
    assert "By chance this happens in 1 of 20 comparisons" in " ".join(output.getvalue().split())


def test_a_difference_far_smaller_than_its_interval_is_not_said_to_be_zero(result: Results) -> None:
    output = io.StringIO()
    print_table(result({"standard": [2.30, 2.32, 2.31], "idea": [2.25, 2.37, 2.3091]}, AGAIN), output)
    assert re.search(r"idea needs 0\.0003 fewer bits per byte \(± 0\.\d+\)", " ".join(output.getvalue().split()))


def test_seeds_that_did_not_reach_the_baselines_loss_are_counted(result: Results) -> None:
    output = io.StringIO()
    print_table(result({"standard": [2.30, 2.32, 2.31], "idea": [2.20, 2.33, 2.32]}, AGAIN), output)
    assert "reached 1/3" in output.getvalue()


def test_identical_arms_are_said_to_be_identical(result: Results) -> None:
    output = io.StringIO()
    print_table(result({"standard": [2.30, 2.32], "same": [2.30, 2.32]}, [2.30, 2.32]), output)
    assert "their results are identical on all 2 seeds" in " ".join(output.getvalue().split())


def test_a_failed_trial_is_counted_in_the_row(result: Results, trial: Trials) -> None:
    two = result({"standard": [2.3, 2.4, 2.3], "idea": [2.1, 2.2]})
    failed = trial("idea", 2, 9.0, bits_per_byte=float("nan"), failed="diverged at step 4")
    output = io.StringIO()
    print_table(two.model_copy(update={"trials": [*two.trials, failed]}), output)
    assert "1/3 failed" in output.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1_048_576, "", "1.05M"),
        (1_048_576, "B", "1.05 MB"),
        (999_600, "", "1.00M"),
        (8_230, "", "8.23k"),
        (512, "B", "512 B"),
        (0, "", "0"),
        (float("nan"), "", "–"),
        (None, "", "–"),
    ],
)
def test_sizes_have_three_digits_and_a_prefix(value: float | None, unit: str, text: str) -> None:
    assert format_si(value, unit) == text


def test_numbers_are_written_in_their_usual_notation() -> None:
    assert format_number(-0.001, 2, sign=True) == "0.00"
    assert format_number(12345.6, 0, sign=True) == "+12,346"
    assert (format_lr(1e-3), format_lr(3.16e-4), format_lr(1e-4)) == ("0.001", "3.16e-4", "1e-4")


def test_flops_per_scored_token_are_shown_if_training_scores_only_some_tokens(result: Results, printed: str) -> None:
    found = result(SCORES, AGAIN, arm_notes=NOTES)
    half = {"scored_share": 0.5}
    trials = [
        t.model_copy(update={"run": t.run.model_copy(update=half)}) if t.arm == "gated" else t for t in found.trials
    ]
    output = io.StringIO()
    print_table(found.model_copy(update={"trials": trials}), output)
    drawn = output.getvalue()
    assert "8.70M/17.4M" in drawn and "FLOPs: per token/per scored token" in " ".join(drawn.split())
    assert max(len(line) for line in drawn.splitlines()) <= 100
    assert "/17.4M" not in printed and "scored token" not in printed
