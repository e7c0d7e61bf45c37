"""From all trials to one row per arm: what it costs, what it scores, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from litmus.comparison.results import ComparisonResult
from litmus.comparison.speedup import Speedup, effective_speedup
from litmus.comparison.statistics import Interval, t_interval
from litmus.comparison.verdicts import Verdict, judge, judge_itself, paired


@dataclass(frozen=True)
class ArmSummary:
    """One row of the table; None for costs of an arm never trained and for scores a note stands in place of.

    `tokens_per_second` is the median over trials, `peak_memory_bytes` the largest. `verdict` of the
    baseline is that of the A/A test (None without two noise trials).
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
    cache_bytes_per_token: int | None
    bits_per_byte: Interval | None
    speedup: Speedup | None
    verdict: Verdict | None

    @property
    def all_active(self) -> bool:
        """Whether the logits of a token use all parameters: no experts that it skips, nothing for training alone."""
        return self.parameters_active == self.parameters

    @property
    def all_scored(self) -> bool:
        """Whether training takes a loss on every token, so that a scored token costs what a token costs."""
        return self.flops_per_scored_token == self.flops_per_token


def summarize(result: ComparisonResult) -> list[ArmSummary]:
    """One summary per arm, in the order of the arms; BadInput where verdicts cannot be given (one seed)."""
    verdicts = {verdict.arm: verdict for verdict in judge(result)}
    return [_summarize_arm(result, arm, verdicts.get(arm) or judge_itself(result)) for arm in result.arms]


def held_out_bytes(result: ComparisonResult) -> int | None:
    """How many bytes of held-out text every score is over; None when nothing was scored."""
    scored = (trial.held_out_bytes for arm in result.arms for trial in result.scored(arm))
    return next(scored, None)


def _summarize_arm(result: ComparisonResult, arm: str, verdict: Verdict | None) -> ArmSummary:
    trials, scored = result.trials_of(arm), result.scored(arm)
    finished = [trial for trial in trials if trial.failed is None]
    first = trials[0] if trials else None
    pairs = [] if arm == result.baseline else paired(result, arm)
    return ArmSummary(
        arm=arm,
        is_baseline=arm == result.baseline,
        seeds=len(trials),
        failed=len(trials) - len(finished),
        lr=first.lr if first else None,
        parameters=first.parameters if first else None,
        parameters_non_embedding=first.parameters_non_embedding if first else None,
        parameters_active=first.parameters_active if first else None,
        flops_per_token=first.flops_per_token if first else None,
        flops_per_scored_token=first.flops_per_token / first.scored_share if first else None,
        tokens_per_second=median(trial.tokens_per_second for trial in finished) if finished else None,
        peak_memory_bytes=max(trial.peak_memory_bytes for trial in finished) if finished else None,
        cache_bytes_per_token=first.cache_bytes_per_token if first else None,
        bits_per_byte=t_interval([t.bits_per_byte for t in scored], result.confidence) if scored else None,
        speedup=effective_speedup(pairs, result.confidence),
        verdict=verdict,
    )
