"""An evaluation as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.table import Table

from litmus.training.evaluation import Evaluation

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Characters of the line that shows loss by position."""


def evaluation_table(evaluation: Evaluation) -> Table:
    """An evaluation for a terminal."""
    figures = Table(show_header=False, box=None, pad_edge=False)
    figures.add_column(style="bold")
    figures.add_column()
    figures.add_row("bits per byte", f"{evaluation.bits_per_byte:.4f}")
    figures.add_row("nats per token", f"{evaluation.nats_per_token:.4f}")
    figures.add_row("perplexity", f"{evaluation.perplexity:.2f} per token")
    figures.add_row("scored", f"{evaluation.tokens:,} tokens, {evaluation.bytes:,} bytes")
    losses = evaluation.loss_by_position
    figures.add_row("loss by position", f"{losses[0]:.2f} {_line(losses)} {losses[-1]:.2f}")
    if entropy := evaluation.attention_entropy:
        layers = "  ".join(f"{value:.2f}" for value in entropy.values())
        figures.add_row("attention entropy", f"{layers}  (nats, {_layers(entropy)})")
    for name, values in evaluation.layer_figures.items():
        layers = "  ".join(f"{value:.3g}" for value in values.values())
        figures.add_row(name.replace("_", " "), f"{layers}  ({_layers(values)})")
    if routing := evaluation.routing:
        excess = "  ".join(f"{router.max_violation:+.0%}" for router in routing.values())
        dead = sum(router.dead for router in routing.values())
        figures.add_row("busiest expert", f"{excess}  (over the mean load, {_layers(routing)}; {dead} experts unused)")
    return figures


def _layers(numbers: Iterable[int]) -> str:
    """Which layers figures belong to, counted from 1 as people do."""
    found = [number + 1 for number in numbers]
    if found == list(range(1, len(found) + 1)):
        return f"layers 1 to {len(found)}" if len(found) > 1 else "layer 1"
    return f"layer{'s' * (len(found) > 1)} {', '.join(map(str, found))}"


def _line(values: list[float]) -> str:
    """Values as a line of bars, averaged into at most WIDTH of them."""
    means = [float(part.mean()) for part in np.array_split(np.array(values), min(WIDTH, len(values)))]
    low, high = min(means), max(means)
    return "".join(BARS[round((value - low) / ((high - low) or 1.0) * (len(BARS) - 1))] for value in means)
