"""Generation: continue prompts through the cache."""

from litmus.generation.engine import Engine, Event, Request
from litmus.generation.generate import Piece, generate, sample_text, stream
from litmus.generation.sampling import Sampling
from litmus.generation.streaming import TextStream

__all__ = ["Engine", "Event", "Piece", "Request", "Sampling", "TextStream", "generate", "sample_text", "stream"]
