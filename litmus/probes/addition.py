"""Addition with carries (Lee et al. 2023, arXiv 2307.03381; Nogueira et al. 2021, arXiv 2102.13019)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, next_token

DIGIT, PLUS, EQUALS = 1, 11, 12
"""The token of the digit 0, and those of the signs."""

TEST_SHARE = 10
"""One sum in so many is kept for the test."""


class Addition(Probe):
    """Sums a + b = c of numbers with `digits` digits, as many as fit; the digits of c are the answers.

    All numbers are written from their last digit on, so that a carry comes before the digit that needs it. A pair
    (a, b) belongs to one split only.
    """

    name = "addition"
    about = "add numbers, with carries"

    length: Length = 36
    vocab: Vocab = 13
    digits: int = Field(3, ge=1, le=9)
    """Digits of each summand; the sum has one more."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(self.width - 1)
        return self.require_vocab(EQUALS + 1)

    @property
    def width(self) -> int:
        """Tokens of a sum, with the signs."""
        return 3 * self.digits + 3

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        sums = (length + 1) // self.width
        a, b = random.integers(0, 10**self.digits, (2, count, sums))
        a = _move_to(split, a, b, 10**self.digits)
        parts = [_digits(a, self.digits), np.full((count, sums, 1), PLUS), _digits(b, self.digits)]
        parts += [np.full((count, sums, 1), EQUALS), _digits(a + b, self.digits + 1)]
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, : sums * self.width] = np.concatenate(parts, axis=2).reshape(count, -1)
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, : sums * self.width].reshape(count, sums, self.width)[:, :, -self.digits - 1 :] = True
        return next_token(tokens, scored)


def is_test(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which pairs are kept for the test: one in TEST_SHARE, for every a and every b."""
    return (a + 3 * b) % TEST_SHARE == 0


def _move_to(split: Split, a: np.ndarray, b: np.ndarray, limit: int) -> np.ndarray:
    """`a` with its last digit changed where the pair is of the other split."""
    last = -3 * b % TEST_SHARE  # the last digit of a test pair
    if split == "train":
        return np.where(is_test(a, b), a - a % 10 + (a + 1 + b % 9) % 10, a)
    return np.where(is_test(a, b), a, a - a % 10 + last)


def _digits(numbers: np.ndarray, count: int) -> np.ndarray:
    """(..., count) the tokens of the numbers' digits, the last digit first."""
    return DIGIT + numbers[..., None] // 10 ** np.arange(count) % 10
