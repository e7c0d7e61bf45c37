"""The plots of the report: each function makes a matplotlib figure from the results, or None if there is no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FixedFormatter, FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from litmus.comparison.plan import LearningRateChoice
from litmus.comparison.report.formatting import format_lr
from litmus.comparison.report.plotting import (
    INK,
    MUTED,
    arm_colour,
    arm_dashes,
    label_ends,
    new_figure,
    shorten,
)
from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.comparison.verdicts import Verdict, paired_trials
from litmus.training.run.result import CurvePoint

Over = Literal["tokens", "seconds"]
Lines = dict[str, tuple[np.ndarray, np.ndarray]]
"""By arm: x values (N,) and y values (seeds, N)."""

_STEEP_START = 1 / 5
"""The first part of a training curve, in which the loss falls steeply, as a fraction of the x axis."""

_FULL_COLOUR_LOAD = 2.0
"""Expert load, in multiples of an even share, that is drawn in full colour."""

_ROW_INCHES = 0.24
_MAX_TICKS = 16


def plot_differences(verdicts: Sequence[Verdict], arms: Sequence[str]) -> Figure | None:
    """A row per verdict: a dot per seed, the mean with its interval, and the margin as a band around zero."""
    drawn = [verdict for verdict in verdicts if verdict.difference is not None]
    if not drawn:
        return None
    metric = drawn[0].metric
    figure, axes = new_figure("", f"difference in {metric.unit}", height=0.9 + 0.46 * len(drawn), left=0.25, right=0.97)
    axes.grid(False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=1)
    for row, verdict in enumerate(drawn):
        colour = arm_colour(arms.index(verdict.arm))
        interval = verdict.difference
        assert interval is not None
        if verdict.margin:
            axes.barh(row, 2 * verdict.margin, 0.72, -verdict.margin, color=MUTED, alpha=0.16, linewidth=0)
        if interval.count > 1:
            axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(
            list(verdict.differences.values()),
            [row - 0.2] * interval.count,
            "o",
            color=colour,
            markersize=4.5,
            alpha=0.55,
            markeredgewidth=0,
        )
        axes.plot([interval.mean], [row], "D", color=colour, markersize=6, markeredgewidth=0)
    axes.set_yticks(range(len(drawn)), [_row_label(verdict) for verdict in drawn])
    for tick, verdict in zip(axes.get_yticklabels(), drawn, strict=True):
        tick.set_color(arm_colour(arms.index(verdict.arm)))
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    low, high = ("better", "worse") if metric.lower_is_better else ("worse", "better")
    for x, text, side in ((0.0, f"← {low}", "left"), (1.0, f"{high} →", "right")):
        axes.text(x, 1.03, text, transform=axes.transAxes, ha=side, fontsize=9, color=MUTED)
    axes.locator_params(axis="x", nbins=6)
    return figure


def plot_curves(result: ComparisonResult, over: Over) -> Figure | None:
    """Held-out bits per byte over tokens or training seconds: mean over seeds, in a band from minimum to maximum."""
    lines: Lines = {}
    for arm in result.arms:
        seeds = [curve for trial in result.scored(arm) if len(curve := _curve(trial, over)) > 1]
        if seeds:
            x = _common_x(seeds)
            lines[arm] = x, np.array([_interpolate(curve, x) for curve in seeds])
    return _over_training(result, lines, f"held-out {result.score_name}", over)


def plot_training_loss(points: Sequence[CurvePoint]) -> Figure | None:
    """Held-out loss, and mean training loss since the previous point, of one run in nats per token over tokens."""
    drawn = [point for point in points if point.tokens > 0]
    if len(drawn) < 2:
        return None
    figure, axes = new_figure("loss, nats per token", "tokens trained on")
    ends, late = [], []
    for index, name in ((1, "training"), (0, "held-out")):
        values = [(p.tokens, p.val_loss if name == "held-out" else p.train_loss) for p in drawn]
        known = [(tokens, loss) for tokens, loss in values if loss is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=arm_colour(index), linewidth=1.7)
            ends.append((known[-1][1], name, arm_colour(index)))
            late += [loss for tokens, loss in known if tokens >= _STEEP_START * drawn[-1].tokens]
    _fit_late_part(axes, min(late), max(late))
    label_ends(axes, ends)
    return figure


def plot_curve_differences(result: ComparisonResult, over: Over) -> Figure | None:
    """Each arm's curve minus the baseline's of the same seed: below zero the arm is ahead. Without the steep start."""
    lines: Lines = {}
    for arm in result.arms:
        pairs = [(_curve(baseline, over), _curve(trial, over)) for baseline, trial in paired_trials(result, arm)]
        pairs = [pair for pair in pairs if arm != result.baseline and min(len(pair[0]), len(pair[1])) > 1]
        if pairs:
            x = _common_x([curve for pair in pairs for curve in pair])
            x = x[x >= _STEEP_START * x[-1]]
            lines[arm] = x, np.array([_interpolate(of_arm, x) - _interpolate(base, x) for base, of_arm in pairs])
    return _over_training(
        result, _with_zero(result, lines), f"{result.score_name}, minus {shorten(result.baseline)}", over
    )


def plot_loss_by_position(result: ComparisonResult) -> Figure | None:
    """Nats per token by position in the window, averaged in bins of a logarithmic axis."""
    losses = {arm: [trial.evaluation.loss_by_position for trial in result.scored(arm)] for arm in result.arms}
    return _by_position(result, "nats per token", _binned_lines(losses))


def plot_loss_by_position_difference(result: ComparisonResult) -> Figure | None:
    """Each arm's loss by position minus the baseline's of the same seed: below zero the arm predicts better there."""
    losses = {
        arm: [_minus(first, second) for first, second in paired_trials(result, arm)]
        for arm in result.arms
        if arm != result.baseline
    }
    lines = _with_zero(result, _binned_lines(losses))
    return _by_position(result, f"nats per token, minus {shorten(result.baseline)}", lines)


def plot_attention_entropy(result: ComparisonResult) -> Figure | None:
    """Mean entropy of the attention weights by layer, in nats."""
    return _by_layer(result, "attention entropy, nats", lambda trial: trial.evaluation.attention_entropy)


def plot_layer_stat(result: ComparisonResult, name: str) -> Figure | None:
    """Another diagnostic by layer, by its name."""
    return _by_layer(result, name.replace("_", " "), lambda trial: trial.evaluation.layer_stats.get(name))


def _by_layer(
    result: ComparisonResult, quantity: str, of: Callable[[TrialResult], dict[int, float] | None]
) -> Figure | None:
    """A line per arm over the layers, numbered from 1, that have this quantity."""
    lines: Lines = {}
    for arm in result.arms:
        seeds = [values for trial in result.scored(arm) if (values := of(trial))]
        if seeds:
            layers = sorted(set.intersection(*(set(values) for values in seeds)))
            x = np.array([layer + 1 for layer in layers])
            lines[arm] = x, np.array([[values[layer] for layer in layers] for values in seeds])
    figure = _lines(result, lines, quantity, "layer", marker="o")
    if figure is None:
        return None
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(result, figure, lines)
    return figure


def plot_expert_load(result: ComparisonResult, arm: str) -> Figure | None:
    """A heatmap of the routers' load: a row per layer, a column per expert; a cross marks experts without any token.

    Experts are sorted by load in every seed before the mean is taken, as their numbers are not comparable.
    """
    seeds = [trial.evaluation.routing for trial in result.scored(arm) if trial.evaluation.routing]
    if not seeds or len({len(router.load) for routing in seeds for router in routing.values()}) > 1:
        return None
    numbers = [layer + 1 for layer in seeds[0]]
    loads = [[sorted(router.load, reverse=True) for router in routing.values()] for routing in seeds]
    load = np.array(loads).mean(axis=0)
    layers, experts = load.shape
    relative = load * experts
    title = f"{arm}: {relative.min():.2f} to {relative.max():.2f} times an even share"
    figure, axes = new_figure(title, "experts, busiest first", height=0.75 + _ROW_INCHES * layers, right=0.98)
    colour = arm_colour(result.arms.index(arm))
    for (row, column), value in np.ndenumerate(relative):
        alpha = min(1.0, value / _FULL_COLOUR_LOAD)
        cell = Rectangle((column + 0.54, row + 0.54), 0.92, 0.92, color=colour, alpha=alpha, linewidth=0)
        axes.add_patch(cell)
        if value == 0:
            axes.plot([column + 1], [row + 1], "x", color=INK, markersize=4)
    axes.grid(False)
    axes.set_xlim(0.5, experts + 0.5)
    axes.set_ylim(layers + 0.5, 0.5)
    axes.set_xticks(range(1, experts + 1, -(-experts // _MAX_TICKS)))
    axes.set_yticks(range(1, layers + 1), [str(number) for number in numbers])
    return figure


def auxiliary_losses(result: ComparisonResult) -> list[str]:
    """The names of the training loss's terms other than next-token cross-entropy: mtp_1, balance, ..."""
    found = [term for trial in result.trials for point in trial.run.curve for term in point.train_parts]
    return [term for term in dict.fromkeys(found) if term != "next_token"]


def plot_auxiliary_loss(result: ComparisonResult, term: str) -> Figure | None:
    """One term of the training loss over tokens; each point is the mean since the previous one."""
    lines: Lines = {}
    for arm in result.arms:
        seeds = [
            np.array([(point.tokens, point.train_parts[term]) for point in trial.run.curve], dtype=float)
            for trial in result.scored(arm)
            if len(trial.run.curve) > 1 and all(term in point.train_parts for point in trial.run.curve)
        ]
        if seeds:
            x = _common_x(seeds)
            lines[arm] = x, np.array([_interpolate(seed, x) for seed in seeds])
    return _over_training(result, lines, f"{term} in training", "tokens")


def plot_learning_rates(result: ComparisonResult, choices: Sequence[LearningRateChoice]) -> Figure | None:
    """Bits per byte of each rate of the sweep; a large dot marks the chosen one, a cross a failed one."""
    drawn = [choice for choice in choices if choice.lr is not None]
    if not drawn:
        return None
    figure, axes = new_figure(f"{result.score_name} in the sweep", "learning rate")
    ends = []
    for choice in drawn:
        index = result.arms.index(choice.arm)
        style: dict[str, Any] = {"color": arm_colour(index), "linestyle": arm_dashes(index), "clip_on": False}
        rates, scores = zip(*((lr, bpb) for lr, bpb in choice.tried.items() if bpb is not None), strict=True)
        failed = [lr for lr, bpb in choice.tried.items() if bpb is None]
        axes.plot(rates, scores, marker="o", markersize=3.5, linewidth=1.5, **style)
        axes.plot([rates[np.argmin(scores)]], [min(scores)], marker="o", markersize=8, **style)
        axes.plot(failed, [1] * len(failed), "x", color=style["color"], transform=axes.get_xaxis_transform())
        ends.append((scores[-1], choice.arm, style["color"]))
    axes.set_xscale("log")
    tried = sorted({lr for choice in drawn for lr in choice.tried})
    axes.xaxis.set_major_locator(FixedLocator(tried))
    axes.xaxis.set_major_formatter(FixedFormatter([format_lr(lr) for lr in tried]))
    axes.xaxis.set_minor_locator(NullLocator())
    label_ends(axes, ends)
    return figure


def _by_position(result: ComparisonResult, title: str, lines: Lines) -> Figure | None:
    figure = _lines(result, lines, title, "position in the window")
    if figure is None:
        return None
    axes = figure.axes[0]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _label(result, figure, lines)
    return figure


def _curve(trial: TrialResult, over: Over) -> np.ndarray:
    """(N, 2): tokens or seconds, and held-out bits per byte; without the point before training."""
    points = [(getattr(point, over), point.val_bpb) for point in trial.run.curve]
    return np.array([point for point in points if point[0] > 0], dtype=float)


def _common_x(curves: Sequence[np.ndarray]) -> np.ndarray:
    """The x values of all curves between the latest start and the earliest end."""
    start, end = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    return np.unique(np.clip(np.concatenate([curve[:, 0] for curve in curves]), start, end))


def _interpolate(curve: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The curve at these x values, interpolated linearly over log x, in which loss curves are closest to straight."""
    return np.interp(np.log(x), np.log(curve[:, 0]), curve[:, 1])


def _over_training(result: ComparisonResult, lines: Lines, title: str, over: Over) -> Figure | None:
    """Lines over the whole training; the vertical axis is fitted to the part after the steep start."""
    figure = _lines(result, lines, title, "tokens trained on" if over == "tokens" else "seconds of training")
    if figure is None:
        return None
    axes = figure.axes[0]
    late = [(seeds[:, grid >= _STEEP_START * grid[-1]]) for grid, seeds in lines.values()]
    low, high = min(float(seeds.min()) for seeds in late), max(float(seeds.max()) for seeds in late)
    _fit_late_part(axes, low, high)
    _label(result, figure, lines)
    return figure


def _fit_late_part(axes: Axes, low: float, high: float) -> None:
    """Fit the vertical axis to the values after the steep start, and show the horizontal one from 0."""
    margin = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin / 3)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=5)


def _binned_lines(losses: dict[str, list[list[float]]]) -> Lines:
    """Each arm's losses by position, one list per seed, averaged in bins of positions."""
    lines: Lines = {}
    for arm, of_arm in losses.items():
        seeds = [loss for loss in of_arm if len(loss) > 1]
        if seeds:
            shortest = min(len(loss) for loss in seeds)
            centres, means = zip(*(_bin_positions(loss[:shortest]) for loss in seeds), strict=True)
            lines[arm] = centres[0], np.array(means)
    return lines


def _with_zero(result: ComparisonResult, lines: Lines) -> Lines:
    """The lines of differences and the baseline as a line at zero."""
    if not lines:
        return lines
    ends = np.array([min(x[0] for x, _ in lines.values()), max(x[-1] for x, _ in lines.values())])
    return {result.baseline: (ends, np.zeros((1, 2))), **lines}


def _bin_positions(loss: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (positions from 1) and mean losses of bins that grow by about a fifth."""
    steps = np.geomspace(1, len(loss), 2 + int(np.log(len(loss)) / np.log(1.2))).astype(int)
    spans = list(pairwise([*np.unique(steps[:-1]), len(loss) + 1]))
    return (
        np.array([np.sqrt(first * (after - 1)) for first, after in spans]),
        np.array([np.mean(loss[first - 1 : after - 1]) for first, after in spans]),
    )


def _minus(baseline: TrialResult, arm: TrialResult) -> list[float]:
    return [b - a for a, b in zip(baseline.evaluation.loss_by_position, arm.evaluation.loss_by_position, strict=False)]


def _lines(result: ComparisonResult, lines: Lines, title: str, xlabel: str, marker: str = "") -> Figure | None:
    """A line per arm: the mean over seeds in a band from minimum to maximum."""
    if not lines:
        return None
    figure, axes = new_figure(title, xlabel)
    for arm, (x, seeds) in lines.items():
        index = result.arms.index(arm)
        axes.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=arm_colour(index), alpha=0.18, linewidth=0)
        axes.plot(
            x,
            seeds.mean(axis=0),
            arm_dashes(index),
            color=arm_colour(index),
            linewidth=1.7,
            marker=marker,
            markersize=4,
        )
    return figure


def _label(result: ComparisonResult, figure: Figure, lines: Lines) -> None:
    ends = {arm: float(seeds.mean(axis=0)[-1]) for arm, (_, seeds) in lines.items()}
    label_ends(figure.axes[0], [(y, arm, arm_colour(result.arms.index(arm))) for arm, y in ends.items()])


def _row_label(verdict: Verdict) -> str:
    return f"{shorten(verdict.arm, 9)} again" if verdict.arm == verdict.baseline else shorten(verdict.arm)
