"""Length generalization: repeat a period beyond the training context (after Anil et al. 2022, arXiv 2207.04901)."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from litmus.probes.probe import Length, Probe, Split, Vocab, next_token


class LengthGeneralization(Probe):
    """A random sequence that is repeated to the end; from the third time on its tokens are the answers.

    The period differs between examples. A test example is four times as long as one of the training, so that the loss
    by position shows what a model does beyond its training context.
    """

    name = "length_generalization"
    about = "go on beyond the training length"
    test_factors = (1, 4)

    length: Length = 48
    vocab: Vocab = 16
    longest: int = Field(12, ge=2)
    """Longest period; the shortest is half of it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_length(3 * self.longest)
        return self.require_vocab(4)

    def draw(self, random: np.random.Generator, count: int, length: int, split: Split) -> tuple[np.ndarray, np.ndarray]:
        period = random.integers(self.longest // 2, self.longest + 1, (count, 1))
        said = random.integers(1, self.vocab, (count, self.longest))
        places = np.arange(length + 1)
        tokens = np.take_along_axis(said, places % period, axis=1)
        return next_token(tokens, places >= 2 * period)
