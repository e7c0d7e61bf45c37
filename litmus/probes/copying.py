"""Copying (Graves et al. 2014, arXiv 1410.5401; Jelassi et al. 2024, arXiv 2402.01032)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, next_token

COPY = 1
"""The token after which the copy begins."""


class Copying(Probe):
    """Random tokens, a mark, and the same tokens once more, which are the answers."""

    name = "copying"
    about = "repeat a sequence"

    length: Length = 32
    vocab: Vocab = 32

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self.require_vocab(COPY + 3)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        size = length // 2
        said = random.integers(COPY + 1, self.vocab, (count, size))
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, :size], tokens[:, size], tokens[:, size + 1 : 2 * size + 1] = said, COPY, said
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, size + 1 : 2 * size + 1] = True
        return next_token(tokens, scored)
