"""`--prior RUNS`: which earlier differences a verdict draws on, what they change, and that they are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from scipy import special

from litmus.comparison.plan import Plan, resolve_arms
from litmus.comparison.prior import earlier_differences
from litmus.comparison.report.page import render_page
from litmus.comparison.report.table import print_table
from litmus.comparison.results import ComparisonResult, EarlierDifferences
from litmus.comparison.verdicts import judge
from litmus.data import DataSettings
from litmus.errors import BadInput
from litmus.training import TrainSettings

FILES = ("plan.json", "comparison.json")
Results = Callable[..., ComparisonResult]


def plan(*arms: str, budget: str = "8 steps", fingerprint: str = "f", dim: int = 16, seed: int = 0) -> Plan:
    recipes = resolve_arms(arms, size=None, context=16, overrides={"dim": dim, "depth": 1, "heads": 2}, vocab_size=257)
    training = TrainSettings(budget=budget, seed=seed)
    return Plan(recipes, DataSettings(), fingerprint, training, noise=False, lr_sweep=False, prompt="")


def differences(runs: Path, seeds: range = range(3)) -> list[tuple[str, str]]:
    """(comparison, arm) of what the comparison of standard and nope would draw on."""
    found = earlier_differences(runs, plan("standard", "nope"), "bpb", seeds, FILES)
    return [(one.comparison, one.arm) for one in found]


@pytest.fixture
def store(tmp_path: Path, result: Results) -> Callable[..., None]:
    """store("name", plan, **terms): a finished comparison, in which the arms are 0, 0.1, 0.4 above the baseline."""

    def write(name: str, made: Plan, **terms: object) -> None:
        scores = {arm: [2.5, 2.5, 2.5] for arm in made.arms} | {arm: [2.5, 2.6, 2.9] for arm in list(made.arms)[1:]}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps(made.content()))
        stored = result(scores, **terms)
        trials = [one.model_copy(update={"seed": one.seed + made.training.seed}) for one in stored.trials]
        stored.model_copy(update={"trials": trials}).save(folder / "comparison.json")

    return write


def test_only_comparisons_on_the_same_terms_count(tmp_path: Path, store: Callable[..., None]) -> None:
    store("alike", plan("standard", "ssmax", "gated"))
    store("longer", plan("standard", "ssmax", budget="16 steps"))
    store("wider", plan("standard", "ssmax", dim=32))
    store("elsewhere", plan("standard", "learned", fingerprint="g"))
    store("stopped", plan("standard", "learned"), looks=(2, 3))
    store("timed", plan("standard", "learned"), primary="seconds")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/comparison.json").write_text("{")
    assert differences(tmp_path) == [("alike", "ssmax"), ("alike", "gated")]
    with pytest.raises(BadInput, match="there is no folder of runs 'nowhere'; --prior takes one"):
        differences(Path("nowhere"))


def test_no_training_counts_twice(tmp_path: Path, store: Callable[..., None]) -> None:
    """Neither those of this comparison, nor those that two earlier ones share; a retest with new seeds counts."""
    store("itself", plan("standard", "nope", "ssmax"))
    store("again", plan("ssmax", "standard"))
    store("retest", plan("standard", "nope", seed=100))
    assert differences(tmp_path) == [("again", "standard"), ("retest", "nope")]
    assert differences(tmp_path, range(102, 105)) == [("again", "standard"), ("itself", "nope")]


def test_the_variance_is_shrunk_towards_the_earlier_ones_and_they_are_named(tmp_path: Path, result: Results) -> None:
    alone = result({"standard": [2.5] * 3, "idea": [2.6, 2.7, 2.8]})
    values = [[0.01, 0.02, 0.03], [0.0, 0.01, 0.02]]
    earlier = [EarlierDifferences(comparison=f"pair-{n}", arm="x", values=one) for n, one in enumerate(values)]
    drawn = alone.model_copy(update={"prior": earlier})
    [before], [after] = judge(alone), judge(drawn)
    assert (before.word, after.word) == ("no difference shown", "worse")
    assert after.difference is not None and before.difference is not None
    f = 4 / (1 + 0.25)
    prior = 1 / (1 / 4 + 1 / f)
    error = ((prior * 0.01**2 + 2 * 0.1**2) / (prior + 2) / 3) ** 0.5
    assert after.difference.half == pytest.approx(special.stdtrit(2 + prior, 0.975) * error)
    drawn.save(tmp_path / "comparison.json")
    assert ComparisonResult.load(tmp_path / "comparison.json") == drawn
    sentence = "6 paired differences (sd 0.01 bpb) of earlier comparisons on the same terms: pair-0, pair-1."
    printed = {}
    for name, one in (("alone", alone), ("drawn", drawn)):
        print_table(one, file := StringIO())
        printed[name] = " ".join(file.getvalue().split())
        assert (sentence in printed[name]) == (sentence in render_page(one)) == (name == "drawn")
