"""How numbers and verdicts are said: the same words in the terminal and in the report."""

from __future__ import annotations

import math

from litmus.comparison.speedup import Speedup
from litmus.comparison.statistics import Interval
from litmus.comparison.verdicts import Verdict


def scaled(value: float | None, unit: str = "") -> str:
    """Three significant digits with a prefix: 1048576 is "1.05M", or "1.05 MB" with a unit; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    power = 0
    while abs(value) >= 999.5 and power < 4:
        value, power = value / 1000, power + 1
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) >= 1 else 2
    text = f"{value:.{digits}f}" if power else f"{value:.3g}"
    return f"{text}{' ' if unit else ''}{['', 'k', 'M', 'G', 'T'][power]}{unit}"


def digits_for(half: float, mean: float) -> int:
    """Decimals that show two significant digits of the uncertainty (of the mean, where there is none)."""
    size = half if math.isfinite(half) and half > 0 else abs(mean) / 10
    return min(6, max(0, 1 - math.floor(math.log10(size)))) if size > 0 else 4


def plain(value: float, digits: int, sign: bool = False) -> str:
    """A number with that many decimals; thousands separated, zero without a sign."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''},.{digits}f}"


def with_interval(interval: Interval, sign: bool = False) -> tuple[str, str]:
    """The mean and half its interval, as ("2.412", "± 0.011"); the second is "" for a single value."""
    digits = digits_for(interval.half, interval.mean)
    half = f"± {plain(interval.half, digits)}" if math.isfinite(interval.half) else ""
    return plain(interval.mean, digits, sign), half


def rate(lr: float) -> str:
    """A learning rate as people write it: 0.001, 3.16e-4."""
    return f"{lr:.3g}" if lr >= 1e-3 else f"{lr:.2e}".replace(".00e", "e").replace("e-0", "e-")


def speedup_words(speedup: Speedup | None) -> tuple[str, str]:
    """As ("1.12×", "1.05 to 1.20"), ("not reached", "< 0.93×"), or ("reached 1/3", "< 0.98×") for one seed of three."""
    if speedup is None:
        return "–", ""
    if speedup.reached < speedup.pairs:
        reached = f"reached {speedup.reached}/{speedup.pairs}" if speedup.reached else "not reached"
        return reached, f"< {speedup.mean:.2f}×"
    within = f"{speedup.low:.2f} to {speedup.high:.2f}" if speedup.pairs > 1 else ""
    return f"{speedup.mean:.2f}×", within


def sentence(verdict: Verdict) -> str:
    """One plain sentence (two for "no difference shown") that says what was found and how sure that is."""
    if verdict.word == "no verdict":
        return f"{verdict.arm} gets no verdict: {verdict.reason}."
    assert verdict.difference is not None
    if verdict.arm == verdict.baseline:
        return _itself_sentence(verdict)
    if verdict.word == "no difference shown":
        return _undecided_sentence(verdict, verdict.difference)
    return _decided_sentence(verdict, verdict.difference)


def _amount(verdict: Verdict, interval: Interval) -> str:
    """The mean difference without its sign, and never as 0.00: "needs 0.012 fewer bits per byte"."""
    metric = verdict.metric
    digits = max(digits_for(interval.half, interval.mean), digits_for(10 * abs(interval.mean), 0))
    size = plain(abs(interval.mean), digits)
    return f"{metric.verb} {size} {metric.less if interval.mean < 0 else metric.more} {metric.unit}"


def _decided_sentence(verdict: Verdict, interval: Interval) -> str:
    digits = digits_for(interval.half, interval.mean)
    near, far = sorted((abs(interval.low), abs(interval.high)))
    floor = plain(verdict.noise_floor, digits_for(verdict.noise_floor, 0))
    return (
        f"{verdict.arm} is {verdict.word} than {verdict.baseline}: it {_amount(verdict, interval)} "
        f"({verdict.confidence:.0%} interval {plain(near, digits)} to {plain(far, digits)}, "
        f"{interval.count} paired seeds; noise floor {floor})."
    )


def _undecided_sentence(verdict: Verdict, interval: Interval) -> str:
    start = f"No difference shown between {verdict.arm} and {verdict.baseline}"
    if interval.sd == 0 and interval.mean == 0:
        return f"{start}: the two gave identical results on all {interval.count} seeds."
    assert verdict.smallest is not None
    why = "which the noise floor hides" if interval.excludes_zero else "and the interval includes zero"
    needed = "more than 1000" if verdict.seeds_needed is None else f"about {verdict.seeds_needed}"
    half = plain(interval.half, digits_for(interval.half, interval.mean))
    smallest = plain(verdict.smallest, digits_for(verdict.smallest, 0))
    return (
        f"{start}: {verdict.arm} {_amount(verdict, interval)}, give or take {half}, {why}. "
        f"These {interval.count} seeds would show, 4 times in 5, a true difference of {smallest} or more; "
        f"one as small as that observed takes {needed} seeds."
    )


def _itself_sentence(verdict: Verdict) -> str:
    digits = digits_for(verdict.noise_floor, 0)
    floor = f"noise floor {plain(verdict.noise_floor, digits)} {verdict.metric.unit}"
    start = f"{verdict.baseline} against itself (trained again, same data, another init)"
    if verdict.word == "no difference shown":
        return f"{start}: no difference shown; {floor}."
    return (
        f"{start}: a difference was called where there is none; {floor}. By chance that happens in "
        f"1 comparison of {round(1 / (1 - verdict.confidence))}; read the other verdicts with care."
    )
