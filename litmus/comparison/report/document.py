"""A comparison as one JSON document for programs: arms, scores, intervals, verdicts, costs and paths."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from litmus.comparison.plan import LearningRateChoice, learning_rate_choices
from litmus.comparison.report.formatting import verdict_sentence
from litmus.comparison.report.summary import ArmSummary, Speedup, summarize
from litmus.comparison.results import ComparisonResult
from litmus.comparison.statistics import Interval
from litmus.comparison.trial import AUDITS, trial_run
from litmus.comparison.verdicts import Verdict, judge, judge_baseline
from litmus.names import folder_safe
from litmus.training.run.config import AUDIT

COSTS = (
    "parameters",
    "parameters_non_embedding",
    "parameters_active",
    "flops_per_token",
    "flops_per_scored_token",
    "tokens_per_second",
    "peak_memory_bytes",
    "cache_bytes_per_token",
)
"""The fields of ArmSummary that are costs."""


def document(result: ComparisonResult, folder: Path, report: Path) -> dict[str, Any]:
    """The comparison stored in `folder` as plain data; numbers that are not finite are None."""
    return {
        "folder": str(folder),
        "report": str(report),
        "baseline": result.baseline,
        "primary": result.primary,
        "confidence": result.confidence,
        "budget": result.budget,
        "arms": [_arm(result, folder, summary) for summary in summarize(result)],
        "verdicts": [verdict_record(verdict) for verdict in judge(result)],
        "against_itself": None if (noise := judge_baseline(result)) is None else verdict_record(noise),
        "learning_rates": [_sweep(choice) for choice in learning_rate_choices(result)],
        "result": json.loads(result.model_dump_json()),
    }


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its interval, and the sentence that says it."""
    return {
        "arm": verdict.arm,
        "baseline": verdict.baseline,
        "metric": verdict.metric.name,
        "confidence": verdict.confidence,
        "word": verdict.word,
        "difference": None if verdict.difference is None else _finite(verdict.difference.mean),
        "interval": _ends(verdict.difference),
        "level": verdict.level,
        "seeds": len(verdict.differences),
        "margin": verdict.margin,
        "smallest_margin": _finite(verdict.smallest_margin),
        "smallest_shown": _finite(verdict.minimum_detectable),
        "seeds_needed": verdict.seeds_needed,
        "sentence": verdict_sentence(verdict),
    }


def _arm(result: ComparisonResult, folder: Path, summary: ArmSummary) -> dict[str, Any]:
    """One arm: its score over seeds, its costs, and the paths of its audit and its runs.

    Without a score, `note` says why.
    """
    trials, score = result.trials_of(summary.arm), summary.bits_per_byte
    return {
        "arm": summary.arm,
        "is_baseline": summary.is_baseline,
        "note": result.arm_notes.get(summary.arm),
        "seeds": summary.seeds,
        "failed": {str(trial.seed): trial.failed for trial in trials if trial.failed is not None},
        "lr": summary.lr,
        "bits_per_byte": None if score is None else score.mean,
        "interval": _ends(score),
        "scores": {str(trial.seed): trial.bits_per_byte for trial in result.scored(summary.arm)},
        "effective_speedup": _speedup(summary.speedup),
        "costs": {name: _finite(getattr(summary, name)) for name in COSTS},
        "train_seconds": {str(trial.seed): _finite(trial.run.train_seconds) for trial in trials},
        "audit": str(folder / AUDITS / folder_safe(summary.arm) / AUDIT),
        "runs": [str(folder / trial_run(trial)) for trial in trials],
    }


def _sweep(choice: LearningRateChoice) -> dict[str, Any]:
    """The rates that were tried for an arm, and the one that was taken. sd: over seeds, None for one seed."""
    tried = [{"lr": lr, "bits_per_byte": score, "sd": choice.noise.get(lr)} for lr, score in choice.tried.items()]
    return {"arm": choice.arm, "lr": choice.lr, "at_edge": choice.at_edge, "tried": tried}


def _speedup(speedup: Speedup | None) -> dict[str, Any] | None:
    if speedup is None:
        return None
    ends = [_finite(speedup.low), _finite(speedup.high)]
    return {"mean": speedup.mean, "interval": ends, "reached": speedup.reached, "pairs": speedup.pairs}


def _ends(interval: Interval | None) -> list[float] | None:
    """The ends of an interval; None with fewer than two values."""
    ends = [] if interval is None else [interval.low, interval.high]
    return ends if ends and all(map(math.isfinite, ends)) else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
