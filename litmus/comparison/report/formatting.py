"""Numbers and verdicts as text, the same in the terminal and in the HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from litmus.comparison.plan import LearningRateChoice
from litmus.comparison.report.summary import Speedup
from litmus.comparison.results import ComparisonResult
from litmus.comparison.statistics import Interval
from litmus.comparison.verdicts import Verdict, get_metric


def format_si(value: float | None, unit: str = "") -> str:
    """Three significant digits with an SI prefix: 1048576 is "1.05M", or "1.05 MB" with a unit; "–" for none."""
    if value is None or not math.isfinite(value):
        return "–"
    power = 0
    while abs(value) >= 999.5 and power < 4:
        value, power = value / 1000, power + 1
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) >= 1 else 2
    text = f"{value:.{digits}f}" if power else f"{value:.3g}"
    return f"{text}{' ' if unit else ''}{['', 'k', 'M', 'G', 'T'][power]}{unit}"


def scored_text(result: ComparisonResult) -> str:
    """What every score is over, as in "109 kB of held-out text" or "512 answers to test examples"."""
    scored = next((trial.evaluation.bytes for arm in result.arms for trial in result.scored(arm)), None)
    if result.is_probe:  # an answer counts as a byte
        return f"{format_si(scored)} answers to test examples"
    return f"{format_si(scored, 'B')} of held-out text"


def format_percent(fraction: float, sign: bool = False) -> str:
    """0.95 as "95 %"."""
    return f"{100 * fraction:{'+' if sign else ''}.0f} %"


def decimals_for(half: float, mean: float) -> int:
    """The decimals that show two significant digits of the uncertainty (or of the mean, if there is none)."""
    size = half if math.isfinite(half) and half > 0 else abs(mean) / 10
    return min(6, max(0, 1 - math.floor(math.log10(size)))) if size > 0 else 4


def format_number(value: float, decimals: int, sign: bool = False) -> str:
    """A number with that many decimals and thousands separators; zero has no sign."""
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''},.{decimals}f}"


def format_interval(interval: Interval, sign: bool = False) -> tuple[str, str]:
    """The mean and half the width, as ("2.412", "± 0.011"); the second is "" for a single value."""
    decimals = decimals_for(interval.half, interval.mean)
    half = f"± {format_number(interval.half, decimals)}" if math.isfinite(interval.half) else ""
    return format_number(interval.mean, decimals, sign), half


def format_lr(lr: float) -> str:
    """A learning rate in its usual notation: 0.001, 3.16e-4."""
    return f"{lr:.3g}" if lr >= 1e-3 else f"{lr:.2e}".replace(".00e", "e").replace("e-0", "e-")


def sweep_sentences(choices: Sequence[LearningRateChoice]) -> list[str]:
    """A sentence per swept arm with score and noise of each learning rate, and one if the noise is unknown."""
    if not choices:
        return []
    sentences = []
    for choice in choices:
        parts = []
        for lr, score in choice.tried.items():
            noise = f" (sd over seeds {choice.noise[lr]:.3f})" if lr in choice.noise else ""
            found = "failed" if score is None else f"{score:.3f} bpb{noise}"
            parts.append(f"{found} at {format_lr(lr)}{', taken' if lr == choice.lr else ''}")
        sentences.append(f"Learning-rate sweep of {choice.arm}: {'; '.join(parts)}.")
    if not any(choice.noise for choice in choices):
        sentences.append(
            "The sweep tries each rate with one seed, so it cannot show how noisy the scores are at a rate; "
            "with --sweep-seeds 3 it does."
        )
    return sentences


def prior_sentence(result: ComparisonResult) -> str:
    """Which earlier differences the verdicts draw on; empty if none."""
    if not result.prior:
        return ""
    names = list(dict.fromkeys(one.comparison for one in result.prior))
    freedom = sum(len(one.values) - 1 for one in result.prior)
    means = [fmean(one.values) for one in result.prior]
    squares = sum((value - mean) ** 2 for one, mean in zip(result.prior, means, strict=True) for value in one.values)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    sd = f"{math.sqrt(squares / freedom):.2g} {get_metric(result.primary).symbol}"
    return (
        f"Prior: the intervals also draw on the variance of {sum(len(one.values) for one in result.prior)} paired "
        f"differences (sd {sd}) of earlier comparisons "
        f"on the same terms: {', '.join(names[:3])}{more}."
    )


def format_speedup(speedup: Speedup | None) -> tuple[str, str]:
    """As ("1.12×", "1.05 to 1.20"), ("not reached", "< 0.93×"), or ("reached 1/3", "< 0.98×") for one seed of three."""
    if speedup is None:
        return "–", ""
    if speedup.reached < speedup.pairs:
        reached = f"reached {speedup.reached}/{speedup.pairs}" if speedup.reached else "not reached"
        return reached, f"< {speedup.mean:.2f}×"
    interval = f"{speedup.low:.2f} to {speedup.high:.2f}" if speedup.pairs > 1 else ""
    return f"{speedup.mean:.2f}×", interval


def verdict_sentence(verdict: Verdict) -> str:
    """The verdict in one sentence (three for "no difference shown"), with its interval."""
    if verdict.word == "no verdict":
        return f"{verdict.arm} gets no verdict: {verdict.reason}."
    assert verdict.difference is not None
    if verdict.arm == verdict.baseline:
        return _baseline_sentence(verdict)
    if verdict.word == "equivalent":
        return _equivalent_sentence(verdict, verdict.difference)
    if verdict.word == "no difference shown":
        return _undecided_sentence(verdict, verdict.difference)
    return _decided_sentence(verdict, verdict.difference)


def _size(interval: Interval) -> str:
    """The mean difference without its sign, with enough decimals not to be shown as 0.00."""
    decimals = max(decimals_for(interval.half, interval.mean), decimals_for(10 * abs(interval.mean), 0))
    return format_number(abs(interval.mean), decimals)


def _amount(verdict: Verdict, interval: Interval) -> str:
    """As in "needs 0.012 fewer bits per byte"."""
    metric = verdict.metric
    return f"{metric.verb} {_size(interval)} {metric.less if interval.mean < 0 else metric.more} {metric.unit}"


def _decided_sentence(verdict: Verdict, interval: Interval) -> str:
    decimals = decimals_for(interval.half, interval.mean)
    near, far = sorted((abs(interval.low), abs(interval.high)))
    return (
        f"{verdict.arm} is {verdict.word} than {verdict.baseline}: it {_amount(verdict, interval)} "
        f"({_level(verdict)} interval {format_number(near, decimals)} to "
        f"{format_number(far, decimals)}, {interval.count} paired seeds)."
    )


def _equivalent_sentence(verdict: Verdict, interval: Interval) -> str:
    assert verdict.margin is not None and verdict.smallest_margin is not None
    smallest = format_number(verdict.smallest_margin, decimals_for(verdict.smallest_margin, 0))
    return (
        f"{verdict.arm} is equivalent to {verdict.baseline} within {verdict.margin:g} {verdict.metric.unit}: it "
        f"{_amount(verdict, interval)}, and with {interval.count} paired seeds a true difference beyond {smallest} "
        f"is excluded."
    )


def _undecided_sentence(verdict: Verdict, interval: Interval) -> str:
    start = f"No difference shown between {verdict.arm} and {verdict.baseline}"
    if interval.sd == 0 and interval.mean == 0:
        return f"{start}: their results are identical on all {interval.count} seeds."
    assert verdict.minimum_detectable is not None and verdict.smallest_margin is not None
    seeds = "more than 1000" if verdict.seeds_needed is None else f"about {verdict.seeds_needed}"
    half = format_number(interval.half, decimals_for(interval.half, interval.mean))
    detectable = format_number(verdict.minimum_detectable, decimals_for(verdict.minimum_detectable, 0))
    smallest = format_number(verdict.smallest_margin, decimals_for(verdict.smallest_margin, 0))
    symbol = verdict.metric.symbol
    return (
        f"{start}: {verdict.arm} {_amount(verdict, interval)} (± {half}), and the interval includes zero. "
        f"With {interval.count} seeds there is 80 % power to detect a true difference of {detectable} {symbol} or "
        f"more; detecting one as small as observed ({_size(interval)}) would take {seeds} seeds. "
        f"The arms are equivalent within {smallest} {symbol}."
    )


def _baseline_sentence(verdict: Verdict) -> str:
    assert verdict.difference is not None
    mean, half = format_interval(verdict.difference, sign=True)
    start = f"{verdict.baseline} against itself (same data, another initialization)"
    if verdict.word == "no difference shown":
        return f"{start}: no difference shown ({mean} {half} {verdict.metric.symbol})."
    return (
        f"{start}: false positive, a difference was found where there is none ({mean} {half} {verdict.metric.symbol}). "
        f"By chance this happens in 1 of {round(1 / (1 - verdict.confidence))} comparisons; read the other verdicts "
        f"with care."
    )


def _level(verdict: Verdict) -> str:
    """The interval's confidence: 0.9833 as "98.3 %"."""
    return f"{100 * (1 - verdict.level):.3g} %"
