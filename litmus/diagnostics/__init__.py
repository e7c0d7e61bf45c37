"""What layers show of themselves in one forward pass: statistics, and the inputs of down-projections."""

from litmus.diagnostics.down_projections import DownProjection, down_inputs, down_projections
from litmus.diagnostics.layer_stats import LAYER_STATS, LayerStats, layer_stats

__all__ = [
    "LAYER_STATS",
    "DownProjection",
    "LayerStats",
    "down_inputs",
    "down_projections",
    "layer_stats",
]
