"""The same comparison at several sizes: a verdict per size, and how each difference changes with compute."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from scipy import special

from litmus.comparison.compare import Comparison, compare
from litmus.comparison.report.formatting import format_interval
from litmus.comparison.statistics import Interval, geometric_interval
from litmus.comparison.verdicts import Pair, Verdict, paired_trials
from litmus.errors import BadInput
from litmus.model import Source


@dataclass(frozen=True)
class Speedup:
    """How much more compute and time the baseline takes to the arm's score: means with intervals (mean, low, high)."""

    compute: tuple[float, float, float]
    seconds: tuple[float, float, float]


@dataclass(frozen=True)
class Trend:
    """How an arm's difference to the baseline changes per tenfold training compute: slope with its interval.

    speedups: by size; empty where the baseline's score does not clearly improve with compute.
    """

    arm: str
    slope: Interval | None
    better_at: tuple[str, ...]
    speedups: dict[str, Speedup]
    sentence: str


@dataclass(frozen=True)
class SizesComparison:
    """One comparison per size, from small to large."""

    comparisons: dict[str, Comparison]

    @property
    def trends(self) -> list[Trend]:
        """One trend per arm other than the baseline."""
        verdicts: dict[str, dict[str, Verdict]] = {}
        for size, comparison in self.comparisons.items():
            for verdict in comparison.verdicts:
                verdicts.setdefault(verdict.arm, {})[size] = verdict
        exponent = self.exponent
        alpha = exponent.mean if exponent is not None and exponent.low > 0 else None
        return [_trend(arm, by_size, self.comparisons, alpha) for arm, by_size in verdicts.items()]

    @property
    def exponent(self) -> Interval | None:
        """alpha of the baseline's law, bits per byte = A · FLOPs^(-alpha), with its interval.

        Least squares of the logarithms over its trials at all sizes; None where that is not defined.
        """
        results = [comparison.result for comparison in self.comparisons.values()]
        trials = [trial.run for result in results for trial in result.scored(result.baseline)]
        compute = [math.log(run.flops_per_token * run.tokens) for run in trials]
        scores = [math.log(run.evaluation.bits_per_byte) for run in trials]
        fit = slope_interval(compute, scores, results[0].confidence)
        return fit and Interval(-fit.mean, -fit.high, -fit.low, fit.sd, fit.count)

    def table(self) -> Group:
        """A row per arm, a column per size, and a sentence per arm, for rich to print."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("arm")
        for size in self.comparisons:
            table.add_column(size, justify="right")
        for trend in self.trends:
            table.add_row(trend.arm, *(_cell(self.comparisons[size], trend, size) for size in self.comparisons))
        return Group(table, Text(), *(Text(f"• {sentence}") for sentence in self._sentences()))

    def _sentences(self) -> list[str]:
        said = [trend.sentence for trend in self.trends]
        if self.exponent is not None:
            mean, half = format_interval(self.exponent)
            said.append(
                f"The baseline's bits per byte fall as compute to the power of -{mean} {half}. Speed-up: how many "
                "times as much compute it takes by this law to the arm's score; a law for small differences."
                if self.exponent.low > 0
                else "The baseline's score does not clearly improve with compute, so no speed-up is given."
            )
        return said

    def print(self) -> None:
        """Print the table of each size and that of all."""
        for size, comparison in self.comparisons.items():
            Console().print(f"\n{size}", style="bold")
            comparison.print()
        Console().print(Text(), self.table())

    def to_json(self) -> str:
        """The JSON of each comparison by size, the trends, and the exponent of the baseline's law."""
        sizes = {size: json.loads(comparison.to_json()) for size, comparison in self.comparisons.items()}
        plain = {"sizes": sizes, "trends": [asdict(trend) for trend in self.trends]}
        exponent = self.exponent and asdict(self.exponent)
        return json.dumps({**plain, "exponent": exponent}, indent=1)


def compare_sizes(
    arms: Sequence[Source],
    sizes: Sequence[str],
    *,
    name: str | None = None,
    **options: Any,
) -> SizesComparison:
    """`litmus.compare` at each size with the same options; the folder of a size is NAME-SIZE."""
    if len(set(sizes)) < 2:
        raise BadInput(f"sizes are {', '.join(sizes) or 'empty'}; a trend needs two or more different ones")
    return SizesComparison(
        {size: compare(arms, size=size, name=None if name is None else f"{name}-{size}", **options) for size in sizes}
    )


def slope_interval(x: Sequence[float], y: Sequence[float], confidence: float) -> Interval | None:
    """Slope of the least-squares line through (x, y) with its t-interval on n - 2 degrees of freedom.

    None for fewer than three points or equal x.
    """
    count = len(x)
    away = np.asarray(x) - np.mean(x)
    spread = float(away @ away)
    if count < 3 or spread == 0:
        return None
    slope = float(away @ np.asarray(y)) / spread
    rest = np.asarray(y) - np.mean(y) - slope * away
    sd = math.sqrt(float(rest @ rest) / (count - 2))
    half = float(-special.stdtrit(count - 2, (1 - confidence) / 2)) * sd / math.sqrt(spread)
    return Interval(slope, slope - half, slope + half, sd, count)


def _trend(arm: str, verdicts: dict[str, Verdict], comparisons: dict[str, Comparison], exponent: float | None) -> Trend:
    compute, differences = [], []
    speedups = {}
    for size, verdict in verdicts.items():
        for baseline, other in paired_trials(comparisons[size].result, arm):
            if other.seed in verdict.differences and verdict.word != "no verdict":
                compute.append(math.log10(baseline.run.flops_per_token * baseline.run.tokens))
                differences.append(verdict.differences[other.seed])
        if exponent is not None and verdict.difference is not None:
            speedups[size] = speedup(paired_trials(comparisons[size].result, arm), exponent, verdict.confidence)
    any_verdict = next(iter(verdicts.values()))
    slope = slope_interval(compute, differences, any_verdict.confidence)
    better = tuple(size for size, verdict in verdicts.items() if verdict.word == "better")
    where = "every size" if len(better) == len(verdicts) else f"{', '.join(better)} only" if better else "no size"
    change = ""
    if slope is not None:
        mean, half = format_interval(slope, sign=True)
        change = f"; the difference changes by {mean} {half} {any_verdict.metric.symbol} per tenfold compute"
    return Trend(arm, slope, better, speedups, f"{arm} is better than {any_verdict.baseline} at {where}{change}.")


def speedup(pairs: Sequence[Pair], exponent: float, confidence: float) -> Speedup:
    """Geometric means over (baseline, arm) pairs of C' / C, where the baseline needs C' for the arm's score.

    By the law L = A · C^(-exponent), C' is the baseline's own compute times (L_baseline / L_arm)^(1 / exponent); its
    seconds grow in proportion.
    """
    factors = [
        (baseline.run.evaluation.bits_per_byte / arm.run.evaluation.bits_per_byte) ** (1 / exponent)
        for baseline, arm in pairs
    ]
    compute = [
        factor * (baseline.run.flops_per_token * baseline.run.tokens) / (arm.run.flops_per_token * arm.run.tokens)
        for factor, (baseline, arm) in zip(factors, pairs, strict=True)
    ]
    seconds = [
        factor * baseline.run.train_seconds / arm.run.train_seconds
        for factor, (baseline, arm) in zip(factors, pairs, strict=True)
    ]
    return Speedup(geometric_interval(compute, confidence), geometric_interval(seconds, confidence))


def _cell(comparison: Comparison, trend: Trend, size: str) -> str:
    verdict = next(verdict for verdict in comparison.verdicts if verdict.arm == trend.arm)
    if verdict.difference is None:
        return verdict.word
    mean, half = format_interval(verdict.difference, sign=True)
    cell = f"{mean} {half}\n{verdict.word}"
    if size in trend.speedups:
        factor, low, high = trend.speedups[size].compute
        cell += f"\nspeed-up {factor:.2f} ({low:.2f} to {high:.2f})"
    return cell
