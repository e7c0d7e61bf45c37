"""Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, distinct, next_token


class Mqar(Probe):
    """Key-value pairs k v k v ..., then each key once more at a random place, where its value is the answer.

    Keys are the lower half of the vocabulary and values the upper. The gap between the pairs and a query follows the
    power law a · x^(a - 1) over the places left, x = 1, 2, ... Places without a query are blank: random fillers could
    equal a key. The paper's settings: vocab 8192, (length, pairs) = (64, 4), (128, 8), (256, 16).
    """

    name = "mqar"
    about = "recall the values of several keys"

    length: Length = 32
    vocab: Vocab = 32
    pairs: int = Field(4, ge=1)
    """Key-value pairs of an example."""
    power: float = Field(0.01, gt=0, le=1)
    """The exponent a of the gaps; 1 is uniform."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(4 * self.pairs)
        return self.require_vocab(2 * (self.pairs + 1))

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        half, pairs = self.vocab // 2, self.pairs
        keys = 1 + distinct(random, count, half - 1, pairs)
        values = random.integers(half, self.vocab, (count, pairs))
        tokens = np.full((count, length + 1), BLANK)
        scored = np.zeros(tokens.shape, dtype=bool)
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
        places = (length + 1 - 2 * pairs) // 2
        # Without replacement by weight: the largest of log weight + Gumbel noise (Efraimidis and Spirakis 2006).
        weight = (self.power - 1) * np.log(np.arange(1, places + 1)) + random.gumbel(size=(count, places))
        queries = 2 * pairs + 2 * np.argsort(-weight, axis=1)[:, :pairs]
        rows = np.arange(count)[:, None]
        tokens[rows, queries], tokens[rows, queries + 1] = keys, values
        scored[rows, queries + 1] = True
        return next_token(tokens, scored)
