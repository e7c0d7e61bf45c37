"""Memorization of facts in weights (Poli et al. 2024, arXiv 2403.17844)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, next_token, shuffled


class Memorization(Probe):
    """Keys, each followed by its value, which is the answer; a key has the same value in all examples of both splits.

    Nothing in an example tells the value of a key that stands there for the first time, and none stands there twice:
    what is tested is what the weights hold. Keys are the lower half of the vocabulary, values the upper.
    """

    name = "memorization"
    about = "hold facts in weights"

    length: Length = 32
    vocab: Vocab = 256

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self.require_vocab(2 * ((self.length + 1) // 2 + 1))

    @property
    def table(self) -> np.ndarray:
        """(keys,) the value of each key, from 1."""
        half = self.vocab // 2
        return np.random.default_rng(self.vocab).integers(half, self.vocab, half - 1)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        pairs = (length + 1) // 2
        keys = shuffled(random, count, self.vocab // 2 - 1)[:, :pairs]
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = 1 + keys, self.table[keys]
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, 1 : 2 * pairs : 2] = True
        return next_token(tokens, scored)
