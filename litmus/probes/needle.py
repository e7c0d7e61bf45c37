"""A needle in a haystack, and a passkey, at one to ten times the training length.

After Kamradt 2023 and Mohtashami and Jaggi 2023 (arXiv 2305.16300), with tokens in place of words.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import Length, Probe, Split, Vocab, distinct, next_token

NEEDLE, ASK = 1, 2


class Needle(Probe):
    """Random filler in which a few needles (a mark, a key, its value) are hidden; at the end one key is asked for.

    The answer is the value of that key. Filler, keys and values are the three thirds of the vocabulary.
    """

    name = "needle"
    about = "find a fact in filler, to 10 x the length"
    test_factors = (1, 2, 4, 10)

    length: Length = 32
    vocab: Vocab = 48
    needles: int = Field(2, ge=1)
    """Needles in an example."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(3 * self.needles + 2)
        return self.require_vocab(3 * (self.needles + 2))

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        third, needles = (self.vocab - ASK - 1) // 3, self.needles
        keys = ASK + 1 + third + distinct(random, count, third, needles)
        values = random.integers(ASK + 1 + 2 * third, self.vocab, (count, needles))
        tokens = random.integers(ASK + 1, ASK + 1 + third, (count, length + 1))
        # Each needle takes three places; without two of them the needles stand at different ones.
        starts = np.sort(distinct(random, count, length - 2 - 2 * needles, needles), axis=1) + 2 * np.arange(needles)
        rows = np.arange(count)[:, None]
        tokens[rows, starts], tokens[rows, starts + 1], tokens[rows, starts + 2] = NEEDLE, keys, values
        asked = random.integers(0, needles, (count, 1))
        tokens[:, length - 2] = ASK
        tokens[:, length - 1] = np.take_along_axis(keys, asked, axis=1)[:, 0]
        tokens[:, length] = np.take_along_axis(values, asked, axis=1)[:, 0]
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, length] = True
        return next_token(tokens, scored)


class Passkey(Probe):
    """Filler that repeats a fixed pattern, in which a mark and a number of several digits are hidden once.

    At the end the number is asked for; its digits are the answers.
    """

    name = "passkey"
    about = "find a number in filler, to 10 x the length"
    test_factors = (1, 2, 4, 10)

    length: Length = 32
    vocab: Vocab = 24
    digits: int = Field(5, ge=1)
    """Digits of the number."""
    pattern: int = Field(5, ge=1)
    """Tokens of the filler's pattern."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(2 * self.digits + 2)
        return self.require_vocab(ASK + 1 + self.pattern + 10)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        digits = self.digits
        first = ASK + 1 + self.pattern
        number = random.integers(first, first + 10, (count, digits))
        phase = random.integers(0, self.pattern, (count, 1))
        tokens = ASK + 1 + (np.arange(length + 1) + phase) % self.pattern
        starts = random.integers(0, length - 2 * digits, (count, 1))
        tokens[np.arange(count)[:, None], starts + np.arange(digits + 1)] = np.hstack(
            [np.full((count, 1), NEEDLE), number]
        )
        tokens[:, length - digits], tokens[:, length - digits + 1 :] = ASK, number
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, length - digits + 1 :] = True
        return next_token(tokens, scored)
