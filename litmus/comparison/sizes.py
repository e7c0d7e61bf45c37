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
from litmus.comparison.statistics import Interval
from litmus.comparison.verdicts import Verdict, paired_trials
from litmus.errors import BadInput
from litmus.model import Source


@dataclass(frozen=True)
class Trend:
    """How an arm's difference to the baseline changes per tenfold training compute: slope with its interval."""

    arm: str
    slope: Interval | None
    better_at: tuple[str, ...]
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
        return [_trend(arm, by_size, self.comparisons) for arm, by_size in verdicts.items()]

    def table(self) -> Group:
        """A row per arm, a column per size, and a sentence per arm, for rich to print."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("arm")
        for size in self.comparisons:
            table.add_column(size, justify="right")
        for trend in self.trends:
            table.add_row(trend.arm, *(_cell(comparison, trend.arm) for comparison in self.comparisons.values()))
        return Group(table, Text(), *(Text(f"• {trend.sentence}") for trend in self.trends))

    def print(self) -> None:
        """Print the table of each size and that of all."""
        for size, comparison in self.comparisons.items():
            Console().print(f"\n{size}", style="bold")
            comparison.print()
        Console().print(Text(), self.table())

    def to_json(self) -> str:
        """The JSON of each comparison by size, and the trends."""
        sizes = {size: json.loads(comparison.to_json()) for size, comparison in self.comparisons.items()}
        return json.dumps({"sizes": sizes, "trends": [asdict(trend) for trend in self.trends]}, indent=1)


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


def _trend(arm: str, verdicts: dict[str, Verdict], comparisons: dict[str, Comparison]) -> Trend:
    compute, differences = [], []
    for size, verdict in verdicts.items():
        for baseline, other in paired_trials(comparisons[size].result, arm):
            if other.seed in verdict.differences and verdict.word != "no verdict":
                compute.append(math.log10(baseline.run.flops_per_token * baseline.run.tokens))
                differences.append(verdict.differences[other.seed])
    any_verdict = next(iter(verdicts.values()))
    slope = slope_interval(compute, differences, any_verdict.confidence)
    better = tuple(size for size, verdict in verdicts.items() if verdict.word == "better")
    where = "every size" if len(better) == len(verdicts) else f"{', '.join(better)} only" if better else "no size"
    change = ""
    if slope is not None:
        mean, half = format_interval(slope, sign=True)
        change = f"; the difference changes by {mean} {half} {any_verdict.metric.symbol} per tenfold compute"
    return Trend(arm, slope, better, f"{arm} is better than {any_verdict.baseline} at {where}{change}.")


def _cell(comparison: Comparison, arm: str) -> str:
    verdict = next(verdict for verdict in comparison.verdicts if verdict.arm == arm)
    if verdict.difference is None:
        return verdict.word
    mean, half = format_interval(verdict.difference, sign=True)
    return f"{mean} {half}\n{verdict.word}"
