"""From paired trials to a verdict: better, worse, equivalent, no difference shown, or none and why.

docs/verdicts.md explains the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.statistics import (
    Estimate,
    Interval,
    holm,
    minimum_detectable_difference,
    moderated_estimates,
    seeds_needed,
    sequential_level,
    t_interval,
)
from litmus.errors import BadInput, nearest
from litmus.training.run.result import CurvePoint

Word = Literal["better", "worse", "equivalent", "no difference shown", "no verdict"]
Pair = tuple[TrialResult, TrialResult]


@dataclass(frozen=True)
class Metric:
    """A quantity to judge arms by; `difference(baseline, arm)` is the arm's value minus the baseline's.

    verb, less, more and unit form a sentence: "needs 0.1 fewer bits per byte".
    """

    name: str
    verb: str
    less: str
    more: str
    unit: str
    symbol: str
    lower_is_better: bool
    difference: Callable[[TrialResult, TrialResult], float]


def seconds_to_loss(curve: Sequence[CurvePoint], loss: float) -> float | None:
    """Training seconds at which the held-out curve first reaches `loss` (bits per byte), or None.

    The curve is interpolated linearly over seconds between two evaluations.
    """
    for before, point in zip([None, *curve], curve, strict=False):
        if point.val_bpb <= loss:
            if before is None or before.val_bpb == point.val_bpb:
                return point.seconds
            fraction = (before.val_bpb - loss) / (before.val_bpb - point.val_bpb)
            return before.seconds + fraction * (point.seconds - before.seconds)
    return None


def final_loss(trial: TrialResult) -> float:
    """Bits per byte at the end of the trial's held-out curve."""
    if not trial.run.curve:
        raise BadInput(
            f"{trial.arm} seed {trial.seed} has no held-out curve; the time to a loss needs evaluations during training"
        )
    return trial.run.curve[-1].val_bpb


def seconds_difference(baseline: TrialResult, arm: TrialResult) -> float:
    """The arm's seconds to a loss minus the baseline's: to the higher of their two final losses.

    Both reach that loss, so every pair has a difference, and exchanging the two only changes its sign.
    """
    loss = max(final_loss(baseline), final_loss(arm))
    arm_seconds = seconds_to_loss(arm.run.curve, loss)
    baseline_seconds = seconds_to_loss(baseline.run.curve, loss)
    assert arm_seconds is not None and baseline_seconds is not None, "both curves end at or below this loss"
    return arm_seconds - baseline_seconds


METRICS = {
    metric.name: metric
    for metric in (
        Metric("bpb", "needs", "fewer", "more", "bits per byte", "bpb", True,
               lambda baseline, arm: arm.bits_per_byte - baseline.bits_per_byte),
        Metric("accuracy", "gets", "fewer", "more", "percent of the answers right", "points", False,
               lambda baseline, arm: 100 * (arm.accuracy - baseline.accuracy)),
        Metric("seconds", "takes", "fewer", "more", "seconds to the same loss", "s", True, seconds_difference),
        Metric("tokens_per_second", "trains on", "fewer", "more", "tokens per second", "tokens/s", False,
               lambda baseline, arm: arm.run.tokens_per_second - baseline.run.tokens_per_second),
        Metric("peak_memory", "uses", "fewer", "more", "MB of peak memory", "MB", True,
               lambda baseline, arm: (arm.run.peak_memory_bytes - baseline.run.peak_memory_bytes) / 1e6),
    )
}  # fmt: skip


def get_metric(name: str) -> Metric:
    """The metric of that name; BadInput for an unknown one."""
    if name not in METRICS:
        raise BadInput(f"unknown metric {name!r}; {nearest(name, METRICS)}")
    return METRICS[name]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm against the baseline in the primary metric.

    differences: arm minus baseline by seed. difference: their mean with its interval at `level` (the arm's share of
    1 - confidence by Holm's rule, and per look where the number of seeds was open); None with fewer than two pairs.
    margin: the largest difference that counts as none, if one was given. smallest_margin: the smallest one within
    which these seeds call the arms equivalent. For "no difference shown", minimum_detectable is the true difference
    that these seeds detect with 80 % power, and seeds_needed the number of seeds to detect the observed one (None: more
    than 1000). reason: why there is no verdict.
    """

    arm: str
    baseline: str
    metric: Metric
    confidence: float
    word: Word
    differences: dict[int, float]
    difference: Interval | None = None
    level: float = 0.0
    margin: float | None = None
    smallest_margin: float | None = None
    minimum_detectable: float | None = None
    seeds_needed: int | None = None
    reason: str = ""

    @property
    def decided(self) -> bool:
        """Whether more seeds would not change the word."""
        return self.word != "no difference shown"


def judge(result: ComparisonResult) -> list[Verdict]:
    """One verdict per arm other than the baseline, in the order of the arms; BadInput for fewer than two seeds.

    If the number of seeds was open, the verdicts are those of the first look that decided each arm.
    """
    seeds = [trial.seed for trial in result.trials_of(result.baseline)]
    if len(seeds) < 2 and result.baseline not in result.arm_notes:
        raise BadInput(
            f"a verdict needs at least 2 seeds per arm, and {result.baseline!r} has {len(seeds)}; "
            f"ask for --seeds 2 or more"
        )
    decided: dict[str, Verdict] = {}
    first, last = result.looks or (len(seeds), len(seeds))
    for count in range(min(first, len(seeds)), min(last, len(seeds)) + 1):
        decided |= {verdict.arm: verdict for verdict in _look(result, set(seeds[:count]), decided)}
    return [decided[arm] for arm in result.arms if arm != result.baseline]


def undecided(result: ComparisonResult) -> list[str]:
    """The arms that more seeds could decide."""
    return [verdict.arm for verdict in judge(result) if not verdict.decided]


def judge_baseline(result: ComparisonResult) -> Verdict | None:
    """The A/A test: the baseline trained again against itself; None with fewer than two such pairs.

    Any word but "no difference shown" is a false positive, expected in 1 of 20 comparisons at 95 % confidence.
    """
    metric = get_metric(result.primary)
    differences = _differences(metric, noise_pairs(result))
    if len(differences) < 2:
        return None
    level = 1 - result.confidence
    [estimate] = moderated_estimates([list(differences.values())])
    return Verdict(
        arm=result.baseline,
        baseline=result.baseline,
        metric=metric,
        confidence=result.confidence,
        word=_word(estimate.interval(level), metric),
        differences=differences,
        difference=estimate.interval(level),
        level=level,
    )


def _look(result: ComparisonResult, seeds: set[int], earlier: Mapping[str, Verdict]) -> list[Verdict]:
    """The new verdicts after these seeds; arms that an earlier look decided keep theirs."""
    metric, confidence = get_metric(result.primary), result.confidence
    differences = {
        arm: _differences(metric, [pair for pair in paired_trials(result, arm) if pair[0].seed in seeds])
        for arm in result.arms
        if arm != result.baseline
    }
    open_arms = [arm for arm in differences if arm not in earlier or not earlier[arm].decided]
    verdicts = []
    for arm in list(open_arms):
        if reason := _reason_for_no_verdict(result, arm, len(differences[arm])):
            open_arms.remove(arm)
            values = differences[arm]
            interval = t_interval(list(values.values()), confidence) if values else None
            verdicts.append(
                Verdict(arm, result.baseline, metric, confidence, "no verdict", values, interval, reason=reason)
            )
    others = [arm for arm in differences if arm not in open_arms and len(differences[arm]) > 1]
    retrained = _differences(metric, noise_pairs(result))
    estimates = moderated_estimates(
        [*(list(differences[arm].values()) for arm in [*open_arms, *others]), *(one.values for one in result.prior)],
        [difference for seed, difference in retrained.items() if seed in seeds],
    )[: len(open_arms)]
    level = partial(sequential_level, *result.looks) if result.looks else float
    levels = holm([estimate.p_value for estimate in estimates], 1 - confidence, level)
    for arm, estimate, own in zip(open_arms, estimates, levels, strict=True):
        verdicts.append(_verdict(result, arm, differences[arm], estimate, own))
    return verdicts


def _verdict(
    result: ComparisonResult, arm: str, differences: dict[int, float], estimate: Estimate, level: float
) -> Verdict:
    metric, margin = get_metric(result.primary), result.margin
    interval, inner = estimate.interval(level), estimate.interval(min(1.0, 2 * level))
    smallest = max(abs(inner.low), abs(inner.high))
    equivalent = margin is not None and smallest <= margin
    word = "equivalent" if equivalent else _word(interval, metric)
    verdict = Verdict(
        arm, result.baseline, metric, result.confidence, word, differences, interval, level, margin, smallest
    )
    if word != "no difference shown":
        return verdict
    return replace(
        verdict,
        minimum_detectable=minimum_detectable_difference(estimate.error, estimate.dof, level),
        seeds_needed=seeds_needed(estimate.mean, estimate, level),
    )


def _word(difference: Interval, metric: Metric) -> Word:
    """Better or worse only if the interval excludes zero."""
    if not difference.excludes_zero:
        return "no difference shown"
    return "better" if (difference.mean < 0) == metric.lower_is_better else "worse"


def paired_trials(result: ComparisonResult, arm: str) -> list[Pair]:
    """(baseline, arm) for every seed with a score of both."""
    return _pair(result.scored(result.baseline), result.scored(arm))


def noise_pairs(result: ComparisonResult) -> list[Pair]:
    """(baseline, baseline trained again) for every seed with a score of both."""
    return _pair(result.scored(result.baseline), result.scored(result.baseline, "noise"))


def _reason_for_no_verdict(result: ComparisonResult, arm: str, pairs: int) -> str:
    """An audit finding, a failed trial (the remaining ones would be a biased sample), or too few pairs; or empty."""
    for judged, whose in ((arm, "its"), (result.baseline, "the baseline's")):
        if judged in result.arm_notes:
            note = result.arm_notes[judged]
            return note if judged == arm else f"the baseline {note}"
        trials = result.trials_of(judged)
        failed = [trial for trial in trials if trial.failed is not None]
        if failed:
            first = failed[0]
            return f"{len(failed)} of {whose} {len(trials)} trials failed (seed {first.seed}: {first.failed})"
    return "" if pairs >= 2 else f"it needs 2 finished seeds in common with the baseline and has {pairs}"


def _pair(firsts: list[TrialResult], seconds: list[TrialResult]) -> list[Pair]:
    by_seed = {trial.seed: trial for trial in seconds}
    return [(first, by_seed[first.seed]) for first in firsts if first.seed in by_seed]


def _differences(metric: Metric, pairs: list[Pair]) -> dict[int, float]:
    return {first.seed: metric.difference(first, second) for first, second in pairs}
