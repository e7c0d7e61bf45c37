"""Statistics of a model's layers, measured in one forward pass."""

from litmus.diagnostics.layer_stats import LAYER_STATS, LayerStats, layer_stats

__all__ = ["LAYER_STATS", "LayerStats", "layer_stats"]
