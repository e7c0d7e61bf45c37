"""Figures of the arms of a comparison: metrics of trials, differences and ratios paired by seed."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from litmus.claims.protocol import Metric, TrialFigure
from litmus.claims.record import Figure
from litmus.comparison.compare import Comparison
from litmus.comparison.results import TrialResult
from litmus.comparison.statistics import Interval, geometric_interval, t_interval
from litmus.comparison.verdicts import final_loss, seconds_to_loss
from litmus.errors import BadInput


def _nats_where_trained(trial: TrialResult) -> float:
    """Nats at the last of each k positions where the loss is over one in k tokens, as at workers of a fixed phase."""
    every = round(1 / trial.run.scored_share)
    return fmean(trial.evaluation.loss_by_position[every - 1 :: every])


def _by_layer(trial: TrialResult, name: str) -> list[float]:
    found = trial.evaluation.layer_stats.get(name)
    if not found:
        raise BadInput(f"{trial.arm} records no {name}")
    return list(found.values())


METRICS: dict[Metric, tuple[str, Callable[[TrialResult], float]]] = {
    "bpb": ("bits per byte", lambda trial: trial.bits_per_byte),
    "nats": ("nats per token", lambda trial: trial.evaluation.nats_per_token),
    "nats_where_trained": ("nats per token", _nats_where_trained),
    "perplexity": ("perplexity", lambda trial: trial.evaluation.perplexity),
    "accuracy": ("% right", lambda trial: 100 * trial.accuracy),
    "tokens_per_second": ("tokens/s", lambda trial: trial.run.tokens_per_second),
    "peak_memory": ("MB", lambda trial: trial.run.peak_memory_bytes / 1e6),
    "parameters": ("parameters", lambda trial: trial.run.parameters),
    "parameters_active": ("parameters", lambda trial: trial.run.parameters_active),
    "flops_per_token": ("FLOPs per token", lambda trial: trial.run.flops_per_token),
    "cache_bytes": ("bytes per token", lambda trial: trial.run.cache_bytes_per_token),
    "first_token_attention": ("weight", lambda trial: fmean(_by_layer(trial, "first_token_attention"))),
    "largest_activation": ("activation", lambda trial: max(_by_layer(trial, "largest_activation"))),
}
"""Unit and value of each metric; those by layer are the mean of the attention and the maximum of the activations."""

NAMES: dict[Metric, str] = {
    "bpb": "bits per byte",
    "nats": "nats per token",
    "nats_where_trained": "nats per token where trained",
    "tokens_per_second": "tokens per second",
    "seconds_to_loss": "seconds to the same loss",
    "peak_memory": "peak memory",
    "parameters_active": "active parameters",
    "flops_per_token": "FLOPs per token",
    "cache_bytes": "cache bytes",
    "first_token_attention": "attention to the first token",
    "largest_activation": "largest activation",
    "audit_failed": "fails its audit",
}


def trial_figure(comparison: Comparison, wanted: TrialFigure) -> Figure:
    """The figure that the protocol wants of this comparison; without a value where trials failed."""
    result = comparison.result
    label, unit = _label(wanted), "times" if wanted.ratio else METRICS.get(wanted.metric, ("s", None))[0]
    if wanted.metric == "audit_failed":
        failed = float(wanted.arm in result.arm_notes)
        note = result.arm_notes.get(wanted.arm, "")
        return Figure(label=label, unit="of 1", value=failed, low=failed, high=failed, note=note)
    missing = Figure(label=label, unit=unit, value=None, low=None, high=None)
    named = [wanted.arm] if wanted.against is None else [wanted.against, wanted.arm]
    trials: list[dict[int, TrialResult]] = []
    for arm in named:
        found = result.trials_of(arm)
        failed_trials = [trial for trial in found if trial.failed is not None]
        if failed_trials or len(found) < 2:
            reason = f": {failed_trials[0].failed}" if failed_trials else ""
            note = f"{len(failed_trials)} of {len(found)} trials of {arm} failed{reason}"
            return missing.model_copy(update={"note": note if found else f"{arm} was not trained"})
        trials.append({trial.seed: trial for trial in found})
    seeds = sorted(set.intersection(*map(set, trials)))
    values = {seed: _value(wanted, [of_arm[seed] for of_arm in trials]) for seed in seeds}
    interval = _interval(comparison, wanted, list(values.values()))
    return Figure(
        label=label,
        unit=unit,
        value=interval[0],
        low=interval[1],
        high=interval[2],
        count=len(values),
        values={str(seed): value for seed, value in values.items()},
        note=result.arm_notes.get(wanted.arm, ""),
    )


def _value(wanted: TrialFigure, trials: list[TrialResult]) -> float:
    """The figure of one seed: of the arm, or of (the arm against, the arm)."""
    if wanted.metric == "seconds_to_loss":
        loss = max(map(final_loss, trials))
        before, after = (seconds_to_loss(trial.run.curve, loss) for trial in trials)
        assert before is not None and after is not None, "both curves end at or below this loss"
    elif wanted.length is not None:
        shares = [trial.evaluation.accuracy_by_length for trial in trials]
        if wanted.length not in shares[0]:
            raise BadInput(f"no test example has {wanted.length} tokens; valid: {', '.join(map(str, shares[0]))}")
        before, after = 100 * shares[0][wanted.length], 100 * shares[-1][wanted.length]
    else:
        before = METRICS[wanted.against_metric or wanted.metric][1](trials[0])
        after = METRICS[wanted.metric][1](trials[-1])
    if wanted.against is None:
        return after
    return after / before if wanted.ratio else after - before


def _interval(comparison: Comparison, wanted: TrialFigure, values: list[float]) -> tuple[float, float, float]:
    """Mean, low and high: those of the verdict where the comparison has one, else a t-interval over seeds.

    Ratios have a geometric mean, and the t-interval of their logarithms.
    """
    result = comparison.result
    if wanted.ratio:
        return geometric_interval(values, result.confidence)
    interval: Interval | None = None
    judged = wanted.against == result.baseline and wanted.metric == result.primary and wanted.length is None
    if judged and wanted.against_metric is None:
        interval = next(one.difference for one in comparison.verdicts if one.arm == wanted.arm)
    interval = interval or t_interval(values, result.confidence)
    return interval.mean, interval.low, interval.high


def _label(wanted: TrialFigure) -> str:
    name = NAMES.get(wanted.metric, wanted.metric)
    if wanted.length is not None:
        name = f"{name} at {wanted.length} tokens"
    if wanted.against is None:
        return f"{wanted.arm}, {name}"
    return f"{wanted.arm} {'/' if wanted.ratio else '−'} {wanted.against}, {name}"
