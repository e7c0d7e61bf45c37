"""State tracking: parity, and products of permutations (Merrill et al. 2024, arXiv 2404.08819)."""

from __future__ import annotations

from itertools import permutations
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import Length, Probe, Split, Vocab


class Parity(Probe):
    """Random bits; the answer at each is whether the number of ones so far is odd. The input holds no answers."""

    name = "parity"
    about = "count modulo two"

    length: Length = 24
    vocab: Vocab = 6

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self.require_vocab(5)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        bits = random.integers(0, 2, (count, length))
        return 1 + bits, 3 + bits.cumsum(axis=1) % 2


class Permutations(Probe):
    """Random permutations of n things; the answer at each is the product of all so far, which is not in the input.

    With n = 5 the products cannot be found in constant depth (Barrington 1986), if NC1 is larger than TC0.
    """

    name = "permutations"
    about = "compose permutations"

    length: Length = 16
    vocab: Vocab = 16
    n: int = Field(3, ge=2, le=5)
    """Things that are permuted."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        return self.require_vocab(1 + 2 * len(elements(self.n)))

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        group = elements(self.n)
        number = {tuple(each): at for at, each in enumerate(group.tolist())}
        table = np.array([[number[tuple(left[right].tolist())] for right in group] for left in group])
        drawn = random.integers(0, len(group), (count, length))
        states = np.empty_like(drawn)
        state = np.zeros(count, dtype=np.int64)  # the identity is the first
        for place in range(length):
            state = table[drawn[:, place], state]
            states[:, place] = state
        return 1 + drawn, 1 + len(group) + states


def elements(n: int) -> np.ndarray:
    """(n!, n) all permutations of the numbers below n, the identity first."""
    return np.array(list(permutations(range(n))))
