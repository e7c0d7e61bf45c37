"""The statistics behind a verdict, on plain numbers: t-intervals, the noise floor and statistical power.

A *difference* is one arm's value minus the baseline's for the same seed (same data order).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

POWER = 0.8
MAX_SEEDS = 1000


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
    half = _critical_t(count, confidence) * sd / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, sd, count)


def geometric_interval(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Geometric mean of positive ratios with its interval (low, high): the t-interval of their logarithms."""
    logs = t_interval([math.log(ratio) for ratio in ratios], confidence)
    return math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high)


@dataclass(frozen=True)
class Noise:
    """How much two trainings of the baseline differ: the root mean square of such differences.

    source: "retrained" (the A/A pairs: same data order, another initialization) or "seeds" (all pairs of the
    baseline's seeds, whose data order differs as well: a larger value, so the floor is conservative).
    """

    rms: float
    pairs: int
    source: str

    def floor(self, count: int, confidence: float = 0.95) -> float:
        """The bound z · rms / sqrt(count) on the mean of `count` differences between equal arms.

        z is the normal quantile (1.96 at 95 %). The rms of a few pairs is a rough estimate; a verdict therefore also
        needs the t-interval, which by itself keeps the false positive rate at 1 - confidence.
        """
        return float(stats.norm.ppf((1 + confidence) / 2)) * self.rms / math.sqrt(count)


def estimate_noise(differences: Sequence[float], source: str) -> Noise:
    """Noise from differences with true mean zero; over all pairs of n seeds the rms is sqrt(2) · sd."""
    return Noise(math.sqrt(float(np.mean(np.square(differences)))), len(differences), source)


def power(true_difference: float, sd: float, noise: Noise, count: int, confidence: float = 0.95) -> float:
    """Probability that `count` seeds detect a `true_difference` > 0: interval above zero and mean above the floor.

    The mean is normal with sd / sqrt(n); the sample sd is independent and chi-distributed with n - 1 degrees of
    freedom, and the probability is averaged over it. With a floor of 0 this is the tail of the noncentral t.
    """
    error = sd / math.sqrt(count)
    floor = noise.floor(count, confidence)
    if error == 0:
        return float(true_difference > floor)
    threshold = np.maximum(floor, _critical_t(count, confidence) * error * _sd_quantiles(count))
    return float(np.mean(stats.norm.sf((threshold - true_difference) / error)))


def minimum_detectable_difference(sd: float, noise: Noise, count: int, confidence: float = 0.95) -> float:
    """The true difference that `count` seeds detect with 80 % power, given the sd of the differences."""
    high = sd + noise.rms
    if high == 0:
        return 0.0
    while power(high, sd, noise, count, confidence) < POWER:
        high *= 2
    low = 0.0
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        if power(middle, sd, noise, count, confidence) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_needed(true_difference: float, sd: float, noise: Noise, confidence: float = 0.95) -> int | None:
    """The smallest number of seeds that detects `true_difference` with 80 % power; None for more than 1000."""
    size = abs(true_difference)
    if power(size, sd, noise, MAX_SEEDS, confidence) < POWER:
        return None
    low, high = 1, MAX_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if power(size, sd, noise, middle, confidence) < POWER:
            low = middle
        else:
            high = middle
    return high


@cache
def _sd_quantiles(count: int) -> np.ndarray:
    """The sample sd of `count` values of sd 1, at 1000 evenly spaced quantiles."""
    quantiles = (np.arange(1000) + 0.5) / 1000
    return np.sqrt(stats.chi2.ppf(quantiles, count - 1) / (count - 1))


@cache
def _critical_t(count: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, count - 1))
