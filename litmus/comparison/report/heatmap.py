"""Figures of several probes: a heatmap of arms and probes, and accuracy against the bytes of the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from litmus.comparison.report.formatting import format_si
from litmus.comparison.report.plotting import INK, MUTED, arm_colour, label_ends, new_figure, shorten

_ROW_INCHES, _COLUMN_INCHES, _LEFT_INCHES = 0.34, 0.85, 1.6


@dataclass(frozen=True)
class HeatmapCell:
    """The mean accuracy of an arm in a probe, from 0 to 1, None if it has none; and the bytes of its state."""

    accuracy: float | None
    state_bytes: float | None


Cells = Mapping[str, Mapping[str, HeatmapCell]]
"""By probe and arm."""


def plot_heatmap(cells: Cells, arms: Sequence[str]) -> Figure:
    """A row per probe and a column per arm; the colour's strength and the number are the accuracy in percent."""
    width, height = _LEFT_INCHES + _COLUMN_INCHES * len(arms), _ROW_INCHES * len(cells)
    figure = Figure(figsize=(width + 0.1, height + 0.5))
    axes = figure.add_axes(
        (_LEFT_INCHES / (width + 0.1), 0.05 / (height + 0.5), 1 - _LEFT_INCHES / (width + 0.1), height / (height + 0.5))
    )
    axes.set_xlim(0, len(arms))
    axes.set_ylim(len(cells), 0)
    for row, by_arm in enumerate(cells.values()):
        for column, arm in enumerate(arms):
            accuracy = by_arm[arm].accuracy
            if accuracy is not None:
                place = (column + 0.02, row + 0.04)
                axes.add_patch(Rectangle(place, 0.96, 0.92, color=arm_colour(0), alpha=0.75 * accuracy, linewidth=0))
            text = "–" if accuracy is None else f"{100 * accuracy:.0f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9, color=INK)
    axes.set_yticks([row + 0.5 for row in range(len(cells))], [shorten(name, 24) for name in cells])
    axes.set_xticks([column + 0.5 for column in range(len(arms))], [shorten(arm, 12) for arm in arms])
    axes.xaxis.tick_top()
    axes.tick_params(labelsize=9, colors=MUTED, length=0, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def plot_accuracy_by_state(cells: Cells, arms: Sequence[str]) -> Figure | None:
    """Accuracy in percent over the bytes of the cache, in the colour of the arm; None without a scored arm."""
    figure, axes = new_figure("accuracy, percent", "bytes of state at the longest test example")
    ends = []
    for index, arm in enumerate(arms):
        found = [
            (cell.state_bytes, 100 * cell.accuracy)
            for by_arm in cells.values()
            if (cell := by_arm[arm]).accuracy is not None and cell.state_bytes
        ]
        if found:
            axes.plot(*zip(*found, strict=True), "o", color=arm_colour(index), markersize=6, alpha=0.7)
            ends.append((found[-1][1], arm, arm_colour(index)))
    if not ends:
        return None
    axes.set_xscale("log")
    axes.set_ylim(-4, 104)
    axes.xaxis.set_major_formatter(lambda value, _: format_si(value, "B"))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    label_ends(axes, ends)
    return figure
