"""The decode benchmark: decoding strategies measured side by side, after a check that all generate the same text."""

from litmus.generation.bench.measure import Cell, measure
from litmus.generation.bench.strategies import DecodeStrategy, decode_strategies

__all__ = ["Cell", "DecodeStrategy", "decode_strategies", "measure"]
