"""From all trials to one row per arm: its costs, its score, its effective speed-up and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from litmus.comparison.results import ComparisonResult
from litmus.comparison.statistics import Interval, geometric_interval, t_interval
from litmus.comparison.verdicts import Pair, Verdict, final_loss, judge, judge_baseline, paired_trials, seconds_to_loss


@dataclass(frozen=True)
class Speedup:
    """Geometric mean of the speed-ups over paired seeds, with its interval.

    If the arm did not reach the loss on some seeds (`reached` < `pairs`), `mean` is an upper bound: these seeds enter
    with the ratio for reaching it at the end of their training. Then there is no interval.
    """

    mean: float
    low: float
    high: float
    reached: int
    pairs: int


def effective_speedup(pairs: Sequence[Pair], confidence: float = 0.95) -> Speedup | None:
    """Time of the baseline to its final loss / time of the arm to the same loss, over (baseline, arm) pairs.

    Training seconds only, read off the held-out curves. None without pairs or curves, or if the loss was reached before
    any training.
    """
    ratios, reached = [], 0
    for baseline, arm in pairs:
        if not baseline.run.curve or not arm.run.curve:
            return None
        loss = final_loss(baseline)
        baseline_seconds = seconds_to_loss(baseline.run.curve, loss)
        arm_seconds = seconds_to_loss(arm.run.curve, loss)
        reached += arm_seconds is not None
        arm_seconds = arm.run.curve[-1].seconds if arm_seconds is None else arm_seconds
        if not baseline_seconds or not arm_seconds:
            return None
        ratios.append(baseline_seconds / arm_seconds)
    if not ratios:
        return None
    return Speedup(*geometric_interval(ratios, confidence), reached, len(ratios))


@dataclass(frozen=True)
class ArmSummary:
    """One row of the table; None for the costs of an arm without trials and the score of an arm with a note.

    tokens_per_second: median over trials. peak_memory_bytes: maximum over trials. verdict: for the baseline that of the
    A/A test (None without two noise trials).
    """

    arm: str
    is_baseline: bool
    seeds: int
    failed: int
    lr: float | None
    parameters: int | None
    parameters_non_embedding: int | None
    parameters_active: int | None
    flops_per_token: float | None
    flops_per_scored_token: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    cache_bytes_per_token: float | None
    bits_per_byte: Interval | None
    speedup: Speedup | None
    verdict: Verdict | None

    @property
    def all_active(self) -> bool:
        """Whether the logits of one token use all parameters: no skipped experts, no modules for training only."""
        return self.parameters_active == self.parameters

    @property
    def all_scored(self) -> bool:
        """Whether training takes a loss on every token, so that FLOPs per token and per scored token are equal."""
        return self.flops_per_scored_token == self.flops_per_token


def summarize(result: ComparisonResult) -> list[ArmSummary]:
    """One summary per arm, in the order of the arms; BadInput if there are too few seeds for verdicts."""
    verdicts = {verdict.arm: verdict for verdict in judge(result)}
    return [_summarize_arm(result, arm, verdicts.get(arm) or judge_baseline(result)) for arm in result.arms]


def _summarize_arm(result: ComparisonResult, arm: str, verdict: Verdict | None) -> ArmSummary:
    trials, scored = result.trials_of(arm), result.scored(arm)
    finished = [trial.run for trial in trials if trial.failed is None]
    first = trials[0].run if trials else None
    pairs = [] if arm == result.baseline else paired_trials(result, arm)
    return ArmSummary(
        arm=arm,
        is_baseline=arm == result.baseline,
        seeds=len(trials),
        failed=len(trials) - len(finished),
        lr=trials[0].lr if trials else None,
        parameters=first.parameters if first else None,
        parameters_non_embedding=first.parameters_non_embedding if first else None,
        parameters_active=first.parameters_active if first else None,
        flops_per_token=first.flops_per_token if first else None,
        flops_per_scored_token=first.flops_per_token / first.scored_share if first else None,
        tokens_per_second=median(run.tokens_per_second for run in finished) if finished else None,
        peak_memory_bytes=max(run.peak_memory_bytes for run in finished) if finished else None,
        cache_bytes_per_token=first.cache_bytes_per_token if first else None,
        bits_per_byte=t_interval([t.bits_per_byte for t in scored], result.confidence) if scored else None,
        speedup=effective_speedup(pairs, result.confidence),
        verdict=verdict,
    )
