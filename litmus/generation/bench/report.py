"""The report of a decode benchmark: a table, and a figure with one panel per quantity."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from rich.table import Table

from litmus.errors import BadInput
from litmus.files import write_atomically
from litmus.generation.bench.measure import Cell, quartiles

COLORS = ("#4c566a", "#d08770", "#a3be8c", "#b48ead", "#2e6fb0", "#c0392b", "#1b998b", "#8a6d3b")
FORMATS = (".png", ".svg")


def table(cells: Sequence[Cell], title: str) -> Table:
    """One row per strategy, times in milliseconds; "speed" is the time per token relative to the group's first row."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    result.add_column("")
    for name in ("first\ntoken", "per\ntoken", "middle\nhalf", "total\nms", "tokens\n/s", "cache", "speed"):
        result.add_column(name, justify="right", no_wrap=True)
    for (batch, prompt), group in groupby(cells, lambda cell: (cell.batch, cell.prompt)):
        base = None
        result.add_row(f"batch {batch}, prompt {prompt}", style="bold")
        for cell in group:
            median, low, high = quartiles(cell.per_token)
            base = base or median
            result.add_row(
                cell.strategy,
                f"{1e3 * statistics.median(cell.first):,.1f}",
                f"{1e3 * median:.2f}",
                f"{1e3 * low:.2f}-{1e3 * high:.2f}",
                f"{1e3 * statistics.median(cell.total):,.0f}",
                f"{statistics.median(cell.tokens_per_second):,.0f}",
                _bytes(cell.cache_bytes),
                f"{base / median:.2f}x",
            )
    return result


def check_figure(path: Path) -> None:
    """BadInput, before anything is measured, for a file name with an unknown image format."""
    if path.suffix not in FORMATS:
        raise BadInput(f"{path} is no file for a figure; its name must end in {' or '.join(FORMATS)}")


def draw(cells: Sequence[Cell], title: str) -> Figure:
    """Four panels for the smallest batch; the last one at its longest prompt. Bars span the quartiles of the runs."""
    batch = min(cell.batch for cell in cells)
    shown = [cell for cell in cells if cell.batch == batch]
    names = list(dict.fromkeys(cell.strategy for cell in shown))
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
        for number, strategy in enumerate(names):
            own = [cell for cell in shown if cell.strategy == strategy]
            spread = [quartiles([1e3 * value for value in values(cell)]) for cell in own]
            medians = [median for median, _, _ in spread]
            bars = [[median - low for median, low, _ in spread], [high - median for median, _, high in spread]]
            lengths = [cell.prompt for cell in own]
            style = {"color": _color(number), "marker": "o", "markersize": 4, "capsize": 2}
            axes.errorbar(lengths, medians, bars, label=strategy, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({cell.prompt for cell in shown}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, tick: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes = figure.axes[3]
    _panel(axes, f"each token after a prompt of {longest}, ms", "new token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, strategy in enumerate(names):
        cell = next(cell for cell in shown if cell.strategy == strategy and cell.prompt == longest)
        # An accepted draft arrives together with the token before it.
        times = [max(1e-3, 1e3 * seconds) for seconds in cell.by_position]
        axes.plot(range(2, len(times) + 2), times, color=_color(number), linewidth=1.4, label=strategy)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the file name's suffix."""
    check_figure(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomically(path, buffer.getvalue())


def _panel(axes: Axes, name: str, below: str) -> None:
    axes.set_title(name, loc="left", fontsize=10)
    axes.set_xlabel(below, fontsize=9, loc="left")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, tick: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="both", linewidth=0.4, alpha=0.4)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _bytes(count: int) -> str:
    return "none" if not count else f"{count / 2**20:.2f} MiB" if count >= 2**18 else f"{count / 2**10:.1f} KiB"
