"""Generation: continue prompts through the KV cache."""

from litmus.generation.detokenizer import IncrementalDetokenizer
from litmus.generation.engine import Engine, Request, TokenEvent
from litmus.generation.generate import TextChunk, generate, sample_text, stream
from litmus.generation.sampling import Sampling

__all__ = [
    "Engine",
    "IncrementalDetokenizer",
    "Request",
    "Sampling",
    "TextChunk",
    "TokenEvent",
    "generate",
    "sample_text",
    "stream",
]
