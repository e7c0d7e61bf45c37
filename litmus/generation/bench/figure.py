"""The figure of a decoding benchmark: total, per token and first token by prompt length, and each token by position."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from litmus.errors import BadInput
from litmus.files import write_atomically
from litmus.generation.bench.measure import Cell
from litmus.generation.bench.report import middle

COLOURS = ("#4c566a", "#d08770", "#a3be8c", "#b48ead", "#2e6fb0", "#c0392b", "#1b998b", "#8a6d3b")
FORMATS = (".png", ".svg")


def check_figure(path: Path) -> None:
    """BadInput, before anything is measured, for a file name of no known kind of figure."""
    if path.suffix not in FORMATS:
        raise BadInput(f"{path} is no file for a figure; its name must end in {' or '.join(FORMATS)}")


def draw(cells: Sequence[Cell], title: str) -> Figure:
    """Four panels for the smallest batch; the last one at its longest prompt. Bars are the middle half of the runs."""
    batch = min(cell.batch for cell in cells)
    shown = [cell for cell in cells if cell.batch == batch]
    names = list(dict.fromkeys(cell.way for cell in shown))
    longest = max(cell.prompt for cell in shown)
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    figure.suptitle(f"{title}, batch {batch}", x=0.01, ha="left", fontsize=13)
    panels = figure.subplots(2, 2).flat
    by_length: list[tuple[str, Callable[[Cell], list[float]]]] = [
        ("total, ms", lambda cell: cell.total),
        ("per token after the first, ms", lambda cell: cell.per_token),
        ("first token, ms", lambda cell: cell.first),
    ]
    for axes, (name, values) in zip(panels, by_length, strict=False):
        _panel(axes, name, "prompt, tokens")
        for number, way in enumerate(names):
            own = [cell for cell in shown if cell.way == way]
            spread = [middle([1e3 * value for value in values(cell)]) for cell in own]
            medians = [median for median, _, _ in spread]
            bars = [[median - low for median, low, _ in spread], [high - median for median, _, high in spread]]
            lengths = [cell.prompt for cell in own]
            axes.errorbar(lengths, medians, bars, color=_colour(number), marker="o", markersize=4, capsize=2, label=way)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({cell.prompt for cell in shown}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes = figure.axes[3]
    _panel(axes, f"each token after a prompt of {longest}, ms", "new token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, way in enumerate(names):
        cell = next(cell for cell in shown if cell.way == way and cell.prompt == longest)
        times = [max(1e-3, 1e3 * seconds) for seconds in cell.by_position]  # a drafted token comes with the one before
        axes.plot(range(2, len(times) + 2), times, color=_colour(number), linewidth=1.4, label=way)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as the kind of file that its name says."""
    check_figure(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomically(path, buffer.getvalue())


def _panel(axes: Axes, name: str, below: str) -> None:
    axes.set_title(name, loc="left", fontsize=10)
    axes.set_xlabel(below, fontsize=9, loc="left")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="both", linewidth=0.4, alpha=0.4)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
