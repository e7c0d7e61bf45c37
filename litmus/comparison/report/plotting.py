"""Matplotlib figures as inline SVG with the page's colours, so that dark mode and print work.

Figures are drawn in placeholder colours, which become CSS variables in the SVG: `var(--ink)`, `var(--arm-0)`, ...
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#010101", "#010102", "#010103"
_ARM_COLOURS = 7
_VARIABLES = {INK: "--ink", MUTED: "--soft", GRID: "--line"} | {
    f"#0102{n:02x}": f"--arm-{n}" for n in range(_ARM_COLOURS)
}
_LABEL_DISTANCE_POINTS = 11.0


def arm_colour(index: int) -> str:
    """The placeholder colour of the arm at this index; 0 is the baseline, and colours repeat after seven."""
    return f"#0102{index % _ARM_COLOURS:02x}"


def arm_dashes(index: int) -> str:
    """The line style, which differs between arms of the same colour."""
    return ["-", "--", ":"][index // _ARM_COLOURS % 3]


def new_figure(
    title: str, xlabel: str, *, height: float = 2.9, left: float = 0.12, right: float = 0.75
) -> tuple[Figure, Axes]:
    """An empty figure 4.3 inches wide; its title names the vertical axis, and the right margin is for labels."""
    figure = Figure(figsize=(4.3, height))
    axes = figure.add_axes((left, 0.42 / height, right - left, 1 - 0.7 / height))
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, x=-left / (right - left), pad=8)
    axes.set_xlabel(xlabel, fontsize=9, color=MUTED, loc="left")
    axes.tick_params(labelsize=9, colors=MUTED, length=0, pad=4)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    return figure, axes


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (y, text, colour) at the right edge of the axes, moved apart vertically to avoid overlap."""
    height = axes.get_window_extent().height * 72 / axes.get_figure().dpi  # type: ignore[union-attr]
    low, high = axes.get_ylim()
    labels = sorted((height * (y - low) / (high - low), text, colour) for y, text, colour in ends)
    positions: list[float] = []
    for at, _, _ in labels:
        positions.append(max(at, positions[-1] + _LABEL_DISTANCE_POINTS) if positions else at)
    shift = sum(at for at, _, _ in labels) / max(1, len(labels)) - sum(positions) / max(1, len(positions))
    if positions:
        shift = max(shift, -positions[0])
    for at, (_, text, colour) in zip(positions, labels, strict=True):
        axes.annotate(
            shorten(text), (1, 0), xycoords="axes fraction", xytext=(5, at + shift), textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip


def shorten(name: str, most: int = 15) -> str:
    """A name cut to `most` characters, with dollar signs escaped so that matplotlib does not read a formula."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def to_svg(figure: Figure, description: str) -> str:
    """The figure as an inline SVG element without fixed size, fonts or colours; `description` is its aria-label."""
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


def to_svg_file(figure: Figure, description: str) -> str:
    """The figure as an SVG file, on a background of its own, in the light or the dark colours of the page."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    colours = (files("litmus.comparison.report") / "page.css").read_text(encoding="utf-8").partition("* {")[0]
    opening, rest = to_svg(figure, description).split(">", 1)
    paper = '<rect width="100%" height="100%" fill="var(--card)"/>'
    return f'{opening} width="{width}" height="{height}">\n<style>{colours}</style>\n{paper}{rest}\n'
