"""Comparisons at several sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from litmus.comparison.compare import Comparison
from litmus.comparison.results import ComparisonResult
from litmus.comparison.sizes import SizesComparison, compare_sizes, slope_interval
from litmus.errors import BadInput

Results = Callable[..., ComparisonResult]


def test_the_slope_and_its_interval_are_those_of_least_squares() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=9), random.normal(size=9)
    found, fit = slope_interval(list(x), list(y), 0.9), stats.linregress(x, y)
    assert found is not None
    assert found.mean == pytest.approx(fit.slope)
    assert found.half == pytest.approx(stats.t.isf(0.05, 7) * fit.stderr)


def test_equal_computes_and_two_points_have_no_slope() -> None:
    assert slope_interval([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], 0.95) is None
    assert slope_interval([1.0, 2.0], [0.1, 0.2], 0.95) is None


def test_an_arm_is_better_at_every_size_or_only_at_those_named(result: Results, tmp_path: Path) -> None:
    def at(flops: float, gain: float) -> Comparison:
        scores = {"standard": [2.30, 2.32, 2.31], "idea": [2.30 - gain, 2.321 - gain, 2.309 - gain]}
        plain = result(scores)
        trials = [
            trial.model_copy(update={"run": trial.run.model_copy(update={"flops_per_token": flops})})
            for trial in plain.trials
        ]
        return Comparison(plain.model_copy(update={"trials": trials}), tmp_path)

    [both] = SizesComparison({"tiny": at(1e6, 0.1), "mini": at(1e7, 0.2)}).trends
    assert both.sentence.startswith("idea is better than standard at every size; the difference changes by")
    assert both.slope is not None and both.slope.mean == pytest.approx(-0.1) and both.slope.excludes_zero
    [one] = SizesComparison({"tiny": at(1e6, 0.1), "mini": at(1e7, 0.0)}).trends
    assert one.better_at == ("tiny",) and "at tiny only" in one.sentence
    [none] = SizesComparison({"tiny": at(1e6, 0.0), "mini": at(1e6, 0.0)}).trends
    assert none.slope is None and none.sentence == "idea is better than standard at no size."


def test_the_speedup_is_the_compute_that_the_baseline_would_need(result: Results, tmp_path: Path) -> None:
    """The baseline follows a law exactly; the arm has the score of four times its compute, at half of its speed."""
    alpha = 0.1

    def at(flops: float) -> Comparison:
        def law(compute: float) -> float:
            return float(10 * compute**-alpha)

        plain = result({"standard": [law(flops)] * 2, "idea": [law(4 * flops)] * 2})
        trials = [
            trial.model_copy(
                update={
                    "run": trial.run.model_copy(
                        update={
                            "flops_per_token": flops,
                            "tokens": 1,
                            "train_seconds": 2.0 if trial.arm == "idea" else 1.0,
                        }
                    )
                }
            )
            for trial in plain.trials
        ]
        return Comparison(plain.model_copy(update={"trials": trials}), tmp_path)

    sizes = SizesComparison({"tiny": at(1e6), "mini": at(1e7)})
    assert sizes.exponent is not None and sizes.exponent.mean == pytest.approx(alpha)
    [trend] = sizes.trends
    assert trend.speedups["tiny"].compute == pytest.approx((4, 4, 4))
    assert trend.speedups["mini"].seconds == pytest.approx((2, 2, 2))


def test_no_speedup_is_given_where_compute_does_not_help(result: Results, tmp_path: Path) -> None:
    plain = result({"standard": [2.3, 2.4, 2.5], "idea": [2.2, 2.3, 2.4]})
    larger = [
        trial.model_copy(update={"run": trial.run.model_copy(update={"flops_per_token": 1e9})})
        for trial in plain.trials
    ]
    sizes = {"tiny": plain, "mini": plain.model_copy(update={"trials": larger})}
    [trend] = SizesComparison({size: Comparison(found, tmp_path) for size, found in sizes.items()}).trends
    assert trend.speedups == {}


@pytest.mark.parametrize("sizes", [[], ["tiny"], ["tiny", "tiny"]])
def test_one_size_has_no_trend(sizes: list[str]) -> None:
    with pytest.raises(BadInput, match="two or more different ones"):
        compare_sizes(["standard", "nope"], sizes)
