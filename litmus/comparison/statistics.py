"""The statistics behind a verdict, on plain numbers: moderated t-intervals, Holm's levels, stopping levels, power.

A *difference* is one arm's value minus the baseline's for the same seed (same data order, same start of shared parts).
`level` is the two-sided probability of a false positive: 0.05 for 95 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, special

POWER = 0.8
MAX_SEEDS = 1000
MAX_LOOKS = 100
"""Most seeds of a comparison that stops when it is decided."""

PRIOR_DOF = 4.0
"""Degrees of freedom that the variances of the other groups are worth at most.

Two arms' differences have standard deviations that differ by a factor of up to about 2 to 4. With 4, simulated
comparisons keep their rate of false positives for spreads of that size (bench/verdict_rates.py); a value estimated from
the two to five groups of one comparison would be infinite by chance in half of them.
"""

SHARED_CORRELATION = 0.5
"""Correlation of two arms' differences, as both subtract the same baseline trials."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, the sample's standard deviation (n - 1) and its count."""

    mean: float
    low: float
    high: float
    sd: float
    count: int

    @property
    def half(self) -> float:
        """Half the width; infinite for a single value."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean ± t(n - 1) · sd / sqrt(n) (Student 1908); infinitely wide for one value."""
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Interval(mean, -math.inf, math.inf, math.nan, count)
    sd = float(np.std(values, ddof=1))
    half = _critical_t(count - 1, 1 - confidence) * sd / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, sd, count)


def geometric_interval(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Geometric mean of positive ratios with its interval (low, high): the t-interval of their logarithms."""
    logs = t_interval([math.log(ratio) for ratio in ratios], confidence)
    return math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high)


@dataclass(frozen=True)
class Estimate:
    """The mean difference of one arm: its own sd, the moderated standard error and its degrees of freedom.

    prior_dof: the part of `dof` that the other groups contribute.
    """

    mean: float
    sd: float
    error: float
    dof: float
    prior_dof: float
    count: int

    @property
    def p_value(self) -> float:
        """Two-sided probability of a mean this far from zero if the true difference is zero."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * special.stdtr(self.dof, -abs(self.mean) / self.error))

    def interval(self, level: float) -> Interval:
        """The confidence interval that excludes zero exactly if the p-value is below `level`."""
        half = _critical_t(self.dof, level) * self.error if self.error else 0.0
        return Interval(self.mean, self.mean - half, self.mean + half, self.sd, self.count)


def moderated_estimates(groups: Sequence[Sequence[float]], null: Sequence[float] = ()) -> list[Estimate]:
    """Estimates for groups of two or more differences each, with variances shrunk towards those of the other groups.

    With the variance s² of a group on d = n - 1 degrees of freedom and the pooled variance s0² of the others, the
    moderated variance is (d0·s0² + d·s²) / (d0 + d), and t has d0 + d degrees of freedom (Smyth 2004, equation 3.2).
    d0 = 1 / (1/`PRIOR_DOF` + 1/f), where f are the degrees of freedom of s0², reduced for the baseline that the groups
    share. `null`: differences with true mean zero (A/A pairs), a further group for s0².
    """
    means = [math.fsum(values) / len(values) for values in groups]
    freedoms = [len(values) - 1.0 for values in groups] + [float(len(null))] * bool(null)
    squares = [math.fsum((value - mean) ** 2 for value in values) for values, mean in zip(groups, means, strict=True)]
    squares += [math.fsum(value**2 for value in null)] * bool(null)
    estimates = []
    for number, values in enumerate(groups):
        own, count = freedoms[number], len(values)
        others = len(freedoms) - 1
        f = (sum(freedoms) - own) / (1 + (others - 1) * SHARED_CORRELATION**2) if others else 0.0
        prior = 1 / (1 / PRIOR_DOF + 1 / f) if f else 0.0
        pooled = (sum(squares) - squares[number]) / (sum(freedoms) - own) if f else 0.0
        variance = (prior * pooled + squares[number]) / (prior + own)
        sd = math.sqrt(squares[number] / own)
        estimates.append(Estimate(means[number], sd, math.sqrt(variance / count), prior + own, prior, count))
    return estimates


def holm(p_values: Sequence[float], alpha: float, level: Callable[[float], float] = lambda alpha: alpha) -> list[float]:
    """The level at which each hypothesis is tested, so that one is rejected if its p-value is at most its level.

    Holm (1979): the smallest of k p-values at alpha / k, the next at alpha / (k - 1), ... up to the first that is not
    rejected, whose level all larger ones share. `level` turns a share of alpha into a level per look.
    """
    levels = [0.0] * len(p_values)
    remaining, stopped = len(p_values), False
    for number in sorted(range(len(p_values)), key=lambda number: p_values[number]):
        levels[number] = level(alpha / remaining)
        stopped = stopped or p_values[number] > levels[number]
        remaining -= not stopped
    return levels


@cache
def sequential_level(first: int, last: int, alpha: float) -> float:
    """The level per look that keeps the rate of false positives at alpha over looks after `first` to `last` seeds.

    A constant level per look (Pocock 1977), found by simulation for the t-statistics of a growing sample: the alpha
    quantile of the smallest p-value over all looks at equal arms.
    """
    counts = np.arange(1, last + 1)
    values = np.random.default_rng(0).normal(size=(_PATHS, last))
    means = np.cumsum(values, axis=1) / counts
    variances = np.cumsum(np.square(values), axis=1) / counts - np.square(means)
    smallest = np.ones(_PATHS)
    for count in range(first, last + 1):
        t = np.abs(means[:, count - 1]) * np.sqrt((count - 1) / variances[:, count - 1])
        low = t > _critical_t(count - 1, alpha)  # other p-values cannot be the quantile
        smallest[low] = np.minimum(smallest[low], 2 * special.stdtr(count - 1, -t[low]))
    return float(np.quantile(smallest, alpha))


_PATHS = 100_000


def power(true_difference: float, error: float, dof: float, level: float) -> float:
    """Probability of a p-value below `level` for a true difference: the tail of the noncentral t."""
    if error == 0:
        return float(true_difference != 0)
    critical, shift = _critical_t(dof, level), abs(true_difference) / error
    missed = float(special.nctdtr(dof, shift, critical))
    if math.isnan(missed):  # scipy has none for some large shifts; Abramowitz and Stegun 26.7.10
        missed = float(special.ndtr((critical * (1 - 1 / (4 * dof)) - shift) / math.sqrt(1 + critical**2 / (2 * dof))))
    return 1 - missed


def minimum_detectable_difference(error: float, dof: float, level: float) -> float:
    """The true difference that is detected with 80 % power, given the standard error of the mean difference."""
    if error == 0:
        return 0.0
    high = 2 * (_critical_t(dof, level) + 1)
    while power(high, 1, dof, level) < POWER:
        high *= 2
    return error * float(optimize.brentq(lambda size: power(size, 1, dof, level) - POWER, 0, high, rtol=1e-4))


def seeds_needed(true_difference: float, estimate: Estimate, level: float) -> int | None:
    """The smallest number of seeds that detects `true_difference` with 80 % power; None for more than 1000."""
    variance = estimate.error**2 * estimate.count

    def detects(count: int) -> bool:
        dof = estimate.prior_dof + count - 1
        return power(true_difference, math.sqrt(variance / count), dof, level) >= POWER

    if not detects(MAX_SEEDS):
        return None
    low, high = 1, MAX_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detects(middle) else (middle, high)
    return high


@cache
def _critical_t(dof: float, level: float) -> float:
    return float(-special.stdtrit(dof, level / 2))
