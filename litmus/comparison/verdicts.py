"""From paired trials to a verdict: better, worse, no difference shown, or none at all and why.

docs/verdicts.md says it in words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from litmus.comparison.metrics import Metric, metric
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.statistics import (
    Interval,
    Noise,
    noise_of,
    seeds_needed,
    smallest_difference,
    t_interval,
)
from litmus.errors import BadInput

Word = Literal["better", "worse", "no difference shown", "no verdict"]
Pair = tuple[TrialResult, TrialResult]


@dataclass(frozen=True)
class Verdict:
    """What a comparison may say about one arm against the baseline, in the primary metric.

    `differences` maps each paired seed to arm minus baseline; `difference` is their mean with its interval
    (None without pairs). With "no difference shown", `smallest` is the difference these seeds would have
    shown with 80 % power, and `seeds_needed` how many would show the one observed (None: more than 1000).
    `reason` says why there is no verdict.
    """

    arm: str
    baseline: str
    metric: Metric
    confidence: float
    word: Word
    differences: dict[int, float]
    difference: Interval | None = None
    noise_floor: float = 0.0
    smallest: float | None = None
    seeds_needed: int | None = None
    reason: str = ""


def decide(difference: Interval, noise_floor: float, lower_is_better: bool) -> Word:
    """Better or worse only if the interval excludes zero and the mean lies beyond the noise floor."""
    if not difference.excludes_zero or abs(difference.mean) <= noise_floor:
        return "no difference shown"
    return "better" if (difference.mean < 0) == lower_is_better else "worse"


def judge(result: ComparisonResult) -> list[Verdict]:
    """One verdict per arm other than the baseline, in the order of the arms; one seed is bad input."""
    seeds = [trial.seed for trial in result.trials_of(result.baseline)]
    if len(seeds) < 2 and result.baseline not in result.arm_notes:
        raise BadInput(
            f"a verdict needs at least 2 seeds per arm, and {result.baseline!r} has {len(seeds)}; "
            f"ask for --seeds 2 or more"
        )
    return [_judge_arm(result, arm) for arm in result.arms if arm != result.baseline]


def judge_itself(result: ComparisonResult) -> Verdict | None:
    """The baseline trained again, against itself (the A/A test), or None with fewer than 2 such pairs.

    By its interval alone, as the noise floor is made of these very differences. Any word but "no difference
    shown" is a false call, to be expected once in twenty comparisons at 95 %.
    """
    compared = metric(result.primary)
    differences = _differences(compared, noise_pairs(result))
    if len(differences) < 2:
        return None
    difference = t_interval(list(differences.values()), result.confidence)
    return Verdict(
        arm=result.baseline,
        baseline=result.baseline,
        metric=compared,
        confidence=result.confidence,
        word=decide(difference, 0.0, compared.lower_is_better),
        differences=differences,
        difference=difference,
        noise_floor=measured_noise(result).floor(difference.count, result.confidence),
    )


def measured_noise(result: ComparisonResult) -> Noise:
    """How far two trainings of the baseline differ: its A/A pairs, or without any, every two of its seeds."""
    compared = metric(result.primary)
    again = _differences(compared, noise_pairs(result))
    if again:
        return noise_of(list(again.values()), "retrained")
    every_two = combinations(result.scored(result.baseline), 2)
    return noise_of([compared.difference(first, second) for first, second in every_two] or [0.0], "seeds")


def paired(result: ComparisonResult, arm: str) -> list[Pair]:
    """(baseline, arm) for every seed that both finished."""
    return _pairs(result.scored(result.baseline), result.scored(arm))


def noise_pairs(result: ComparisonResult) -> list[Pair]:
    """(baseline, baseline trained again) for every seed that has both."""
    return _pairs(result.scored(result.baseline), result.scored(result.baseline, "noise"))


def _judge_arm(result: ComparisonResult, arm: str) -> Verdict:
    compared, confidence = metric(result.primary), result.confidence
    differences = _differences(compared, paired(result, arm))
    difference = t_interval(list(differences.values()), confidence) if differences else None
    undecided = Verdict(arm, result.baseline, compared, confidence, "no verdict", differences, difference)
    reason = _why_no_verdict(result, arm, len(differences))
    if reason or difference is None:
        return replace(undecided, reason=reason)
    noise = measured_noise(result)
    floor = noise.floor(difference.count, confidence)
    word = decide(difference, floor, compared.lower_is_better)
    if word != "no difference shown":
        return replace(undecided, word=word, noise_floor=floor)
    return replace(
        undecided,
        word=word,
        noise_floor=floor,
        smallest=smallest_difference(difference.sd, noise, difference.count, confidence),
        seeds_needed=seeds_needed(difference.mean, difference.sd, noise, confidence),
    )


def _why_no_verdict(result: ComparisonResult, arm: str, pairs: int) -> str:
    """A finding, a failed trial (judging the survivors alone would flatter the arm), or too few pairs."""
    for judged, whose in ((arm, "its"), (result.baseline, "the baseline's")):
        if judged in result.arm_notes:
            note = result.arm_notes[judged]
            return note if judged == arm else f"the baseline {note}"
        trials = result.trials_of(judged)
        failed = [trial for trial in trials if trial.failed is not None]
        if failed:
            first = failed[0]
            return f"{len(failed)} of {whose} {len(trials)} trials failed (seed {first.seed}: {first.failed})"
    return "" if pairs >= 2 else f"2 finished seeds shared with the baseline are needed, it has {pairs}"


def _pairs(firsts: list[TrialResult], seconds: list[TrialResult]) -> list[Pair]:
    by_seed = {trial.seed: trial for trial in seconds}
    return [(first, by_seed[first.seed]) for first in firsts if first.seed in by_seed]


def _differences(compared: Metric, pairs: list[Pair]) -> dict[int, float]:
    return {first.seed: compared.difference(first, second) for first, second in pairs}
