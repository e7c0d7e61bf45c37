"""The base class of probes: seeded examples of a synthetic task, generated when they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from litmus.bounds import Bounded
from litmus.errors import BadInput, first_fault

Split = Literal["train", "test"]

Length = Annotated[int, Field(ge=2, le=1 << 16)]
Vocab = Annotated[int, Field(ge=4, le=1 << 20)]

NOT_SCORED = -100
BLANK = 0
"""The token that stands where nothing is said; it is no key, no value and no answer of any probe."""

VERSION = 1
"""Increment when the examples of a probe change."""


class Probe(Bounded, ABC):
    """A synthetic task: its options, and its examples as a function of seed, split and number.

    `vocab` counts all tokens, `length` the tokens of a training example, T. `test_lengths` are those of the test
    examples; a model takes the longest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    about: ClassVar[str]
    """What a model must be able to do, in a few words."""
    test_factors: ClassVar[tuple[int, ...]] = (1,)
    """Lengths of the test examples as multiples of `length`."""

    length: Length = 64
    vocab: Vocab = 64

    @abstractmethod
    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (count, length) int64; the targets of what is no answer are -100."""

    @property
    def test_lengths(self) -> tuple[int, ...]:
        """The lengths of the test examples, the shortest first."""
        return tuple(factor * self.length for factor in self.test_factors)

    def batch(
        self, seed: int, split: Split, number: int, count: int, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` of a split: inputs and targets (count, T) int64.

        Each split, seed, number and length has a random stream of its own, so that no two share examples except by
        chance.
        """
        length = length or self.length
        random = np.random.default_rng([VERSION, ("train", "test").index(split), seed, number, length])
        return self.draw(random, count, length, split)

    def require_vocab(self, least: int) -> Self:
        """The probe itself; ValueError if its vocabulary is smaller than `least` tokens."""
        if self.vocab < least:
            raise ValueError(f"vocab = {self.vocab} is too small for these options; valid are {least} or more")
        return self

    def require_length(self, least: int) -> Self:
        """The probe itself; ValueError if its examples are shorter than `least` tokens."""
        if self.length < least:
            raise ValueError(f"length = {self.length} is too short for these options; valid are {least} or more")
        return self

    def to_name(self) -> str:
        """The name with all options, as `probe_named` takes it."""
        options = ",".join(f"{key}={value}" for key, value in self.model_dump().items())
        return f"{self.name}:{options}" if options else self.name


def with_options(kind: type[Probe], options: dict[str, Any]) -> Probe:
    """The probe with options other than its defaults; BadInput for those that cannot be used."""
    try:
        return kind(**options)
    except ValidationError as error:
        raise BadInput(f"probe {kind.name}: {first_fault(error, kind)}") from None


def next_token(tokens: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (B, T) of token rows (B, T + 1), of which those where `scored` are answers."""
    return tokens[:, :-1].copy(), np.where(scored, tokens, NOT_SCORED)[:, 1:]


def distinct(random: np.random.Generator, count: int, among: int, take: int) -> np.ndarray:
    """(count, take) different numbers below `among` in each row, in random order."""
    return random.random((count, among)).argpartition(take - 1, axis=1)[:, :take] if take else np.zeros((count, 0), int)


def shuffled(random: np.random.Generator, count: int, among: int) -> np.ndarray:
    """(count, among) a random permutation of the numbers below `among` in each row."""
    return random.random((count, among)).argsort(axis=1)
