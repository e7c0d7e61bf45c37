"""How evenly an arm's routers spread tokens over experts, as a heatmap: a row per layer, a column per expert."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from litmus.comparison.report.canvas import INK, arm_colour, new_figure
from litmus.comparison.results import ComparisonResult

FULL = 2.0
"""The multiple of an even share from which on a cell is drawn in full colour."""
ROW = 0.24
MOST_TICKS = 16


def expert_load(result: ComparisonResult, arm: str) -> Figure | None:
    """Cells darken from no tokens to twice an even share; a cross marks experts that got none in any seed.

    Experts stand in the order of their load: their numbers mean something else in every seed.
    """
    seeds = [trial.routing for trial in result.scored(arm) if trial.routing]
    if not seeds or len({len(router.load) for routing in seeds for router in routing.values()}) > 1:
        return None
    numbers = [layer + 1 for layer in seeds[0]]
    loads = [[sorted(router.load, reverse=True) for router in routing.values()] for routing in seeds]
    load = np.array(loads).mean(axis=0)
    layers, experts = load.shape
    share = load * experts
    title = f"{arm}: {share.min():.2f} to {share.max():.2f} times an even share"
    figure, axes = new_figure(title, "experts, busiest first", height=0.75 + ROW * layers, right=0.98)
    colour = arm_colour(result.arms.index(arm))
    for (row, column), value in np.ndenumerate(share):
        axes.add_patch(
            Rectangle((column + 0.54, row + 0.54), 0.92, 0.92, color=colour, alpha=min(1.0, value / FULL), linewidth=0)
        )
        if value == 0:
            axes.plot([column + 1], [row + 1], "x", color=INK, markersize=4)
    axes.grid(False)
    axes.set_xlim(0.5, experts + 0.5)
    axes.set_ylim(layers + 0.5, 0.5)
    axes.set_xticks(range(1, experts + 1, -(-experts // MOST_TICKS)))
    axes.set_yticks(range(1, layers + 1), [str(number) for number in numbers])
    return figure
