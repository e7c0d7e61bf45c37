"""Probes of arms: trained and scored by the comparison, judged by accuracy, shown in one table and one heatmap."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from litmus.comparison.compare import Comparison
from litmus.comparison.probing import ProbeComparison, probe
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.errors import BadInput
from litmus.model import resolve
from litmus.probes import probe_named
from litmus.probes.data import probe_settings, token_data
from litmus.probes.mqar import Mqar
from litmus.probes.probe import Probe
from litmus.training.settings import TrainSettings
from litmus.training.trainer import train_run

Trials = Callable[..., TrialResult]


@pytest.fixture
def probed(trial: Trials) -> ProbeComparison:
    """Two arms in two probes, of which one arm solves the first."""

    def comparison(name: str, accuracies: dict[str, float]) -> Comparison:
        lengths = {32: 1.0, 128: 0.5} if name == "needle" else {32: 1.0}
        trials = [
            trial(arm, seed, 1.0, accuracy=accuracy + seed / 1000, accuracy_by_length=lengths)
            for arm, accuracy in accuracies.items()
            for seed in range(3)
        ]
        result = ComparisonResult(
            name=name, baseline="standard", arms=list(accuracies), budget="800 steps", trials=trials, primary="accuracy"
        )
        return Comparison(result, Path("runs") / name)

    return ProbeComparison(
        {
            "mqar": comparison("mqar", {"standard": 0.99, "window": 0.4}),
            "needle": comparison("needle", {"standard": 0.5, "window": 0.5}),
        }
    )


def test_accuracy_is_judged_higher_is_better(probed: ProbeComparison) -> None:
    [verdict] = probed.comparisons["mqar"].verdicts
    assert verdict.word == "worse"
    assert verdict.difference is not None and verdict.difference.mean == pytest.approx(-59)


def test_the_table_shows_each_arm_in_each_probe_with_its_interval(probed: ProbeComparison) -> None:
    out = io.StringIO()
    Console(width=100, file=out).print(probed.table())
    text = out.getvalue().replace("\n", " ")
    assert "mqar      99.1 % ± 0.2  40.1 % ± 0.2" in text
    assert re.search("mqar: window is worse than standard: it gets 59[.0]* fewer percent of the answers right", text)
    assert "needle: No difference shown between window and standard" in text


def test_json_has_accuracies_with_intervals_lengths_and_state_bytes(probed: ProbeComparison) -> None:
    found = json.loads(probed.to_json())["probes"]["needle"]
    arm = found["arms"]["window"]
    assert arm["accuracy"] == pytest.approx(0.501)
    assert arm["interval"][0] < 0.501 < arm["interval"][1]
    assert arm["accuracy_by_length"] == {"32": 1.0, "128": 0.5}
    assert arm["state_bytes"] == 4096 * 320
    assert found["comparison"]["verdicts"][0]["word"] == "no difference shown"


def test_the_page_has_a_heatmap_with_the_accuracy_of_every_arm_in_every_probe(
    probed: ProbeComparison, tmp_path: Path
) -> None:
    page = probed.save_report(tmp_path / "probes.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    heatmap = page[page.index("<svg") : page.index("</svg>")]
    assert all(f">{text}</text>" in heatmap for text in ("99", "40", "50", "mqar", "needle", "standard", "window"))


def test_the_report_of_a_probe_is_about_answers_and_not_about_text(probed: ProbeComparison, tmp_path: Path) -> None:
    comparison = probed.comparisons["mqar"]
    page = comparison.save_report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "answers to test examples" in page and "held-out text" not in page
    out = io.StringIO()
    Console(width=200, file=out).print(comparison.table())
    assert "answers to test examples" in out.getvalue() and "of held-out text" not in out.getvalue()


def test_a_probe_is_trained_and_scored_by_the_comparison(tmp_path: Path) -> None:
    found = probe(
        ["needle:length=16,needles=1"],
        ["nope"],
        training=TrainSettings(budget="2 steps", batch=8, lr=1e-3, validate_tokens=64, checkpoint_every=0),
        overrides={"dim": 16, "depth": 1, "heads": 1},
        lr_sweep=False,
        seeds=2,
        jobs=1,
        runs=tmp_path,
        console=Console(quiet=True),
    )
    [comparison] = found.comparisons.values()
    assert comparison.report.is_file()
    assert [trial.run.evaluation.bytes for trial in comparison.result.trials] == [4 * 512] * 2
    assert list(found.scores["needle:length=16,needles=1"]["nope"].by_length) == [16, 32, 64, 160]


def accuracy(task: Probe, folder: Path, steps: int, lr: float, base: str, **overrides: Any) -> float:
    """The accuracy of a small model that was trained on a probe."""
    settings = TrainSettings(
        budget=f"{steps} steps",
        batch=64,
        context=task.length,
        lr=lr,
        warmup=0.1,
        validate_tokens=64,
        validate_every=steps,
        checkpoint_every=0,
    )
    sizes = {"dim": 64, "depth": 2, "heads": 2, "context": 32, **overrides}
    recipe = resolve(base, vocab_size=task.vocab, overrides=sizes)
    data = token_data(probe_settings(task))
    found = train_run(recipe, probe_settings(task), settings, folder, data=data).evaluation.accuracy
    assert found is not None
    return found


def test_two_layers_without_positions_find_the_kth_token_and_one_layer_cannot(tmp_path: Path) -> None:
    """The invariance of one layer (Irie 2025) as an accuracy: it is no better than a guess among seven tokens."""
    task = probe_named("kth_token")
    assert accuracy(task, tmp_path / "two", 250, 5e-3, "nope", depth=2) > 0.6
    assert accuracy(task, tmp_path / "one", 250, 5e-3, "nope", depth=1) < 0.25


def test_attention_recalls_values_by_their_keys_and_windows_that_do_not_reach_them_cannot(tmp_path: Path) -> None:
    """Two layers of two tokens each see no pair from most queries; a guess among eight values is right in 0.125."""
    task = Mqar(length=16, vocab=16, pairs=2, power=1.0)
    assert accuracy(task, tmp_path / "dense", 150, 3e-3, "standard") > 0.6
    assert accuracy(task, tmp_path / "window", 150, 3e-3, "standard", mixer={"kind": "window", "window": 2}) < 0.3


@pytest.mark.parametrize(
    ("names", "arms", "sentence"),
    [
        (["mqr"], ["standard"], "unknown probe 'mqr'"),
        ([], ["standard"], "no probe was given"),
        (["mqar"], [], "no arm was given"),
        (["mqar:length=4"], ["standard"], "length = 4 is too short"),
    ],
)
def test_what_cannot_be_probed_is_told_before_any_training(
    names: list[str], arms: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=sentence):
        probe(names, arms, runs=tmp_path)
    assert not list(tmp_path.iterdir())
