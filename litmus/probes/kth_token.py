"""The token at a place: a probe of positions."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, distinct, next_token

QUERY = 1
"""The token after which the k-th token is asked for."""


class KthToken(Probe):
    """Different tokens in random order and a query; the answer is the k-th of them, the same k in all examples.

    One causal attention layer without positions is invariant to the order of the tokens before the query (Irie 2025,
    arXiv 2501.00659), so it can do no better than 1 / (length - 1); two layers can.
    """

    name = "kth_token"
    about = "know the place of a token"

    length: Length = 8
    vocab: Vocab = 12
    k: int = Field(2, ge=1)
    """The place that is asked for, from 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(self.k + 1)
        return self.require_vocab(self.length + 1)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, : length - 1] = QUERY + 1 + distinct(random, count, self.vocab - QUERY - 1, length - 1)
        tokens[:, : length - 1] = random.permuted(tokens[:, : length - 1], axis=1)
        tokens[:, length - 1], tokens[:, length] = QUERY, tokens[:, self.k - 1]
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, length] = True
        return next_token(tokens, scored)
