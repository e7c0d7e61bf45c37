"""Compression: keep a whole sequence and read it at any place (after Poli et al. 2024, arXiv 2403.17844)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, next_token, shuffled


class Compression(Probe):
    """Random tokens, then all their places in random order, each followed by the token there, which is the answer.

    In the paper one vector must hold the sequence, and a separate network reads it. A language model has no such
    vector: here what a fixed state must hold is the same, and attention may look back.
    """

    name = "compression"
    about = "hold a sequence, read it at any place"

    length: Length = 36
    vocab: Vocab = 32

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(3)
        return self.require_vocab(1 + self.length // 3 + 2)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        size = length // 3
        said = random.integers(1 + size, self.vocab, (count, size))
        places = shuffled(random, count, size)
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, :size] = said
        tokens[:, size : 3 * size : 2] = 1 + places
        tokens[:, size + 1 : 3 * size + 1 : 2] = np.take_along_axis(said, places, axis=1)
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, size + 1 : 3 * size + 1 : 2] = True
        return next_token(tokens, scored)
