"""The tokens of one forward pass, and whether mechanisms compute them by their fast path or their reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

IGNORED = -100
"""The target of a token that is not scored."""


@dataclass(frozen=True)
class Batch:
    """Tokens (B, T) and what belongs to each of them.

    targets: (B, T) the token to predict after each, IGNORED (-100) where nothing is scored; None outside of training.
    document_ids: (B, T) number of the packed document; tokens see only their own document. Not with a cache.
    padding_mask: (B, T) False at padding, on either side; None where every token is real.
    """

    tokens: Tensor
    targets: Tensor | None = None
    document_ids: Tensor | None = None
    padding_mask: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor | Batch) -> Batch:
        """Plain tokens as a batch; a batch as it is."""
        return tokens if isinstance(tokens, Batch) else cls(tokens)

    @property
    def scored_targets(self) -> Tensor:
        """The targets, which a training loss needs."""
        assert self.targets is not None, "a loss needs targets"
        return self.targets


_reference = False


def use_reference() -> bool:
    """Whether mechanisms take their plain reference."""
    return _reference


@contextlib.contextmanager
def reference_path(wanted: bool = True) -> Iterator[None]:
    """Within this block every mechanism computes by its plain reference (its definition, slow and clear), if wanted."""
    global _reference
    before, _reference = _reference, wanted
    try:
        yield
    finally:
        _reference = before
