"""The measured times as a table and as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from litmus.generation.bench.measure import Cell


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, low, high


def table(cells: Sequence[Cell], title: str) -> Table:
    """One line per way, in milliseconds; the last column compares the time per token with that of the group's first."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    result.add_column("")
    for name in ("first\ntoken", "per\ntoken", "middle\nhalf", "total\nms", "tokens\n/s", "cache", "speed"):
        result.add_column(name, justify="right", no_wrap=True)
    for (batch, prompt), group in groupby(cells, lambda cell: (cell.batch, cell.prompt)):
        base = None
        result.add_row(f"batch {batch}, prompt {prompt}", style="bold")
        for cell in group:
            median, low, high = middle(cell.per_token)
            base = base or median
            result.add_row(
                cell.way,
                f"{1e3 * statistics.median(cell.first):,.1f}",
                f"{1e3 * median:.2f}",
                f"{1e3 * low:.2f}-{1e3 * high:.2f}",
                f"{1e3 * statistics.median(cell.total):,.0f}",
                f"{statistics.median(cell.tokens_per_second):,.0f}",
                _bytes(cell.cache_bytes),
                f"{base / median:.2f}x",
            )
    return result


def plain_data(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Everything that was measured, in seconds and bytes, for JSON."""

    def spread(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(("median", "low", "high"), middle(values), strict=True))

    return [
        {
            "way": cell.way,
            "prompt_tokens": cell.prompt,
            "batch": cell.batch,
            "cache_bytes": cell.cache_bytes,
            "first_token": spread(cell.first),
            "per_token": spread(cell.per_token),
            "total": spread(cell.total),
            "tokens_per_second": spread(cell.tokens_per_second),
            "by_position": cell.by_position,
            "runs": cell.runs,
        }
        for cell in cells
    ]


def _bytes(count: int) -> str:
    return "none" if not count else f"{count / 2**20:.2f} MiB" if count >= 2**18 else f"{count / 2**10:.1f} KiB"
