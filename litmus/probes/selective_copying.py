"""Selective copying (Arjovsky et al. 2016, arXiv 1511.06464; Gu and Dao 2023, arXiv 2312.00752)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, distinct, next_token

COPY = 1
"""The token after which the copy begins."""


class SelectiveCopying(Probe):
    """Items at random places among blanks, a mark, and the items alone in their order, which are the answers."""

    name = "selective_copying"
    about = "repeat the items among blanks"

    length: Length = 32
    vocab: Vocab = 16
    items: int = Field(6, ge=1)
    """Items of an example."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(2 * self.items + 1)
        return self.require_vocab(COPY + 3)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        items = self.items
        said = random.integers(COPY + 1, self.vocab, (count, items))
        places = np.sort(distinct(random, count, length - items, items), axis=1)
        tokens = np.full((count, length + 1), BLANK)
        tokens[np.arange(count)[:, None], places] = said
        tokens[:, length - items], tokens[:, length - items + 1 :] = COPY, said
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, length - items + 1 :] = True
        return next_token(tokens, scored)
