"""The batch of one forward pass, and the switch between fast paths and reference implementations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

IGNORED = -100
"""Target of tokens that do not count in the loss."""


@dataclass(frozen=True)
class Batch:
    """Token ids (B, T) with their targets, documents and padding.

    targets: (B, T) next token of each token, IGNORED (-100) where the loss skips it; None if no loss is computed.
    document_ids: (B, T) packed document of each token; tokens attend within their document only. Not with a cache.
    padding_mask: (B, T) False at padding, left or right; None if every token is real.
    max_scored: an upper bound of the scored targets, with which the head skips the others; None if not known.
    """

    tokens: Tensor
    targets: Tensor | None = None
    document_ids: Tensor | None = None
    padding_mask: Tensor | None = None
    max_scored: int | None = None

    @classmethod
    def of(cls, tokens: Tensor | Batch) -> Batch:
        """`tokens` as a Batch; a Batch is returned unchanged."""
        return tokens if isinstance(tokens, Batch) else cls(tokens)

    @property
    def scored_targets(self) -> Tensor:
        """The targets, which must not be None."""
        assert self.targets is not None, "a loss needs targets"
        return self.targets


_reference = False


def use_reference() -> bool:
    """Whether the code runs in a `reference_path()` block."""
    return _reference


@contextlib.contextmanager
def reference_path(wanted: bool = True) -> Iterator[None]:
    """In this block every module computes by its slow reference implementation, unless `wanted` is False."""
    global _reference
    before, _reference = _reference, wanted
    try:
        yield
    finally:
        _reference = before
