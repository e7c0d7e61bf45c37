"""What decoding costs, way by way: measured side by side, after all ways were seen to write the same."""

from litmus.generation.bench.measure import Cell, measure
from litmus.generation.bench.ways import Way, ways_of

__all__ = ["Cell", "Way", "measure", "ways_of"]
