"""Generation: continue prompts through the cache."""

from litmus.generation.generate import generate, sample_text
from litmus.generation.sampling import Sampling

__all__ = ["Sampling", "generate", "sample_text"]
