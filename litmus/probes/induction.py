"""In-context recall, plain, with noise and with keys of several tokens (Poli et al. 2024, arXiv 2403.17844)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import BLANK, Length, Probe, Split, Vocab, next_token, shuffled


class Induction(Probe):
    """Pairs of a key and a value; the keys come again and again, always with the value that they have in the example.

    A value is an answer from its key's second time on. Keys are the lower half of the vocabulary, values the upper.
    """

    name = "induction"
    about = "recall what followed before"

    length: Length = 32
    vocab: Vocab = 32
    keys: int = Field(6, ge=1)
    """Different keys of an example."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(2 * (self.keys + 1))
        return self.require_vocab(2 * (self.keys + 1))

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        pairs = (length + 1) // 2
        keys, values, again = self._pairs(random, count, pairs, self.vocab)
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, 1 : 2 * pairs : 2] = again
        return next_token(tokens, scored)

    def _pairs(
        self, random: np.random.Generator, count: int, pairs: int, vocab: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, values and whether the key stood before, (count, pairs) each, in tokens below `vocab`."""
        half = vocab // 2
        table = random.integers(half, vocab, (count, half - 1))
        chosen = shuffled(random, count, half - 1)[:, : self.keys]
        at = np.take_along_axis(chosen, random.integers(0, self.keys, (count, pairs)), axis=1)
        return at + 1, np.take_along_axis(table, at, axis=1), seen_before(at)


class NoisyInduction(Induction):
    """In-context recall with noise: between the pairs stand tokens of a third kind, which mean nothing."""

    name = "noisy_induction"
    about = "recall among noise"

    noise: float = Field(0.3, ge=0, lt=1)
    """Fraction of the pairs' places that hold two tokens of noise instead."""
    noise_tokens: int = Field(8, ge=1)
    """Different tokens of noise, the last of the vocabulary."""

    @model_validator(mode="after")
    def _check_noise(self) -> Self:
        return self.require_vocab(2 * (self.keys + 1) + self.noise_tokens)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        kept, pairs = self.vocab - self.noise_tokens, (length + 1) // 2
        keys, values, _ = self._pairs(random, count, pairs, kept)
        noisy = random.random((count, pairs)) < self.noise
        where_key = np.where(noisy, -1 - np.arange(pairs), keys)  # all different, so that noise is never seen before
        noise = random.integers(kept, self.vocab, (count, pairs, 2))
        tokens = np.full((count, length + 1), BLANK)
        tokens[:, 0 : 2 * pairs : 2] = np.where(noisy, noise[..., 0], keys)
        tokens[:, 1 : 2 * pairs : 2] = np.where(noisy, noise[..., 1], values)
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, 1 : 2 * pairs : 2] = seen_before(where_key) & ~noisy
        return next_token(tokens, scored)


class FuzzyInduction(Induction):
    """In-context recall in which keys and values are sequences of one to `most` tokens.

    All tokens of a value are answers from its key's second time on. No key is the beginning of another's tokens, as
    the first token of each key is its own.
    """

    name = "fuzzy_induction"
    about = "recall by keys of several tokens"

    length: Length = 64
    vocab: Vocab = 32
    keys: int = Field(5, ge=1)
    most: int = Field(3, ge=1, le=8)
    """Most tokens of a key or a value."""

    @model_validator(mode="after")
    def _check_longest(self) -> Self:
        return self.require_length(2 * self.most * (self.keys + 1))

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        half = self.vocab // 2
        tokens = np.full((count, length + 1), BLANK)
        scored = np.zeros(tokens.shape, dtype=bool)
        first = 1 + shuffled(random, count, half - 1)[:, : self.keys]
        later = random.integers(1, half, (count, self.keys, self.most - 1))
        values = random.integers(half, self.vocab, (count, self.keys, self.most))
        sizes = random.integers(1, self.most + 1, (2, count, self.keys))
        order = random.integers(0, self.keys, (count, length))
        for row in range(count):
            place, seen = 0, set()
            for key in order[row].tolist():
                said = [first[row, key], *later[row, key, : sizes[0, row, key] - 1]]
                value = values[row, key, : sizes[1, row, key]]
                end = place + len(said) + len(value)
                if end > length + 1:
                    break
                tokens[row, place:end] = [*said, *value]
                scored[row, end - len(value) : end] = key in seen
                seen.add(key)
                place = end
        return next_token(tokens, scored)


def seen_before(keys: np.ndarray) -> np.ndarray:
    """(B, N) whether the key stands at an earlier place of its row."""
    equal = keys[:, :, None] == keys[:, None, :]
    return np.tril(equal, -1).any(axis=2)
