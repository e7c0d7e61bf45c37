"""Matplotlib figures as small inline SVG that takes its colours from the page, so that dark mode and print work.

Colours are drawn as placeholders and become CSS variables in the SVG: `var(--ink)`, `var(--arm-0)` and so on.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, LINE = "#010101", "#010102", "#010103"
_ARM_COLOURS = 7
_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {
    f"#0102{n:02x}": f"--arm-{n}" for n in range(_ARM_COLOURS)
}
_LABEL_GAP = 11.0


def arm_colour(index: int) -> str:
    """The placeholder colour of the arm at this place; 0 is the baseline, and colours repeat after seven."""
    return f"#0102{index % _ARM_COLOURS:02x}"


def arm_dashes(index: int) -> str:
    """The line style that tells apart arms whose colour repeats."""
    return ["-", "--", ":"][index // _ARM_COLOURS % 3]


def new_figure(
    title: str, xlabel: str, *, height: float = 2.9, left: float = 0.12, right: float = 0.75
) -> tuple[Figure, Axes]:
    """An empty figure 4.3 inches wide whose title names the vertical axis; space at the right is for labels."""
    figure = Figure(figsize=(4.3, height))
    axes = figure.add_axes((left, 0.42 / height, right - left, 1 - 0.7 / height))
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, x=-left / (right - left), pad=8)
    axes.set_xlabel(xlabel, fontsize=9, color=SOFT, loc="left")
    axes.tick_params(labelsize=9, colors=SOFT, length=0, pad=4)
    axes.grid(True, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    return figure, axes


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (y, text, colour) at the right edge of the axes, moved apart vertically where they would overlap."""
    height = axes.get_window_extent().height * 72 / axes.get_figure().dpi  # type: ignore[union-attr]
    low, high = axes.get_ylim()
    wanted = sorted((height * (y - low) / (high - low), text, colour) for y, text, colour in ends)
    placed: list[float] = []
    for at, _, _ in wanted:
        placed.append(max(at, placed[-1] + _LABEL_GAP) if placed else at)
    shift = sum(at for at, _, _ in wanted) / max(1, len(wanted)) - sum(placed) / max(1, len(placed))
    if placed:
        shift = max(shift, -placed[0])
    for at, (_, text, colour) in zip(placed, wanted, strict=True):
        axes.annotate(
            shorten(text), (1, 0), xycoords="axes fraction", xytext=(5, at + shift), textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip


def shorten(name: str, most: int = 15) -> str:
    """A name that fits next to a figure, in which a dollar sign is no formula."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an inline SVG element without fixed size, fonts or colours, described for screen readers."""
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": description}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    referenced = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referenced else "", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r"(font: [^;\"]*?px)[^;\"]*", r"\1 var(--sans)", svg)
    opening = f'<svg role="img" aria-label="{html.escape(description)}" '
    return opening + re.sub(r' (width|height)="[^"]+"', "", svg.split(">", 1)[0])[5:] + ">" + svg.split(">", 1)[1]
