"""The picture of a claim: each condition's figure with its interval, among what was to confirm and to refute it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

from litmus.claims.record import Condition
from litmus.comparison.report.plotting import GRID, INK, MUTED, arm_colour

WIDTH, PANEL, MARGIN = 7.2, 1.15, 0.12
"""Inches: of the picture, of the height of a condition, and at the right."""

COLOURS = {"confirmed": arm_colour(1), "refuted": arm_colour(2)}

LOG_SPAN = 300.0
"""Positive numbers that are this many times apart are drawn on a logarithmic axis."""

_PER_LINE = 105


def draw(conditions: Sequence[Condition]) -> Canvas | None:
    """A panel per condition that has a figure: a dot per seed, the mean with its interval; None without any."""
    drawn = [one for one in conditions if one.figure.value is not None]
    if not drawn:
        return None
    height = PANEL * len(drawn) + 0.1
    canvas = Canvas(figsize=(WIDTH, height))
    for row, condition in enumerate(drawn):
        bottom = (height - PANEL * (row + 1) + 0.33) / height
        axes = canvas.add_axes((MARGIN / WIDTH, bottom, 1 - 2 * MARGIN / WIDTH, (PANEL - 0.33 - 0.42) / height))
        _panel(axes, condition)
    return canvas


def _panel(axes: Axes, condition: Condition) -> None:
    criterion, figure = condition.criterion, condition.figure
    assert figure.value is not None and figure.low is not None and figure.high is not None
    low, high, log = _limits(condition)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)
    axes.set_ylim(-1, 1)
    for word, region in (("confirmed", criterion.confirmed), ("refuted", criterion.refuted)):
        if region is None:
            continue
        left, right = (end if end is not None else edge for end, edge in zip(region, (low, high), strict=True))
        left, right = max(left, low), min(right, high)
        if right < left:
            continue
        colour = COLOURS[word]
        axes.axvspan(left, right, color=colour, alpha=0.13, linewidth=0)
        if left == right:
            axes.axvline(left, color=colour, linewidth=4, alpha=0.4)
        share = [_share(x, low, high, log) for x in (left, right)]
        at_left = share[0] + share[1] < 1
        place, side = (share[0] + 0.008, "left") if at_left else (share[1] - 0.008, "right")
        axes.text(
            place, 0.93, word, transform=axes.transAxes, ha=side, va="top", fontsize=9, color=colour
        )  # on the outer side of its region
    dots = list(figure.values.values())
    axes.plot(dots, [-0.55] * len(dots), "o", color=INK, markersize=4.5, alpha=0.4, markeredgewidth=0)
    axes.plot([figure.low, figure.high], [0, 0], color=INK, linewidth=2.2, solid_capstyle="round")
    axes.plot([figure.value], [0], "D", color=INK, markersize=6.5, markeredgewidth=0)
    unit = "" if figure.unit in figure.label else f" ({figure.unit})"
    title = wrap(f"{figure.label.replace('$', '')}{unit}", _PER_LINE)[0]
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=5)
    axes.set_yticks([])
    axes.tick_params(labelsize=9, colors=MUTED, length=0, pad=3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _limits(condition: Condition) -> tuple[float, float, bool]:
    """The ends of the axis, and whether it is logarithmic: around all that is drawn and the ends of the regions."""
    criterion, figure = condition.criterion, condition.figure
    ends = [end for end in (*criterion.confirmed, *(criterion.refuted or ())) if end is not None]
    shown = [figure.value, figure.low, figure.high, *figure.values.values(), *ends]
    numbers = [number for number in shown if number is not None]
    low, high = min(numbers), max(numbers)
    if low > 0 and high / low > LOG_SPAN:
        room = (high / low) ** 0.12
        return low / room, high * room, True
    room = 0.14 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room, False


def _share(x: float, low: float, high: float, log: bool) -> float:
    """Where x lies between low, 0, and high, 1."""
    return math.log(x / low) / math.log(high / low) if log else (x - low) / (high - low)
