"""What one forward pass tells each layer about its tokens besides their vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.terms import Terms

Buffers = dict[str, Tensor]
"""One layer's cache: named buffers whose first dimension is the batch row."""

Visibility = Tensor | Literal["causal", "all"]
"""Which keys a query may read: a bool mask (B or 1, 1, T, S), or one of two shapes that need no mask."""


@dataclass(frozen=True)
class Step:
    """Positions, validity, documents and cache of the (B, T) tokens now passing through the model.

    positions: (B, T) place of each token in its row; restarts at each isolated document, ignores padding.
    start: the common first position when every row holds start .. start+T-1 without padding, else None.
    valid: (B, T) False at padding; None when every token is real.
    documents: (B, T) document number of each token, for packed documents that must not see each other.
    cache: this layer's buffers while decoding, else None. Slot i of a row holds its token at position i.
    used: number of cache slots that can hold a token after this step (the same for every row).
    fast: whether mechanisms take their fast path or their plain reference.
    shared: results that several layers need (masks, rotations), computed once per step.
    observed: where layers leave figures about themselves (attention entropy) when somebody asked.
    terms: where layers leave terms of the training loss (a router's balance) while it is computed.
    """

    positions: Tensor
    start: int | None = 0
    valid: Tensor | None = None
    documents: Tensor | None = None
    cache: Buffers | None = None
    used: int = 0
    fast: bool = True
    shared: dict[Any, Any] = field(default_factory=dict)
    observed: dict[str, list[Tensor]] | None = None
    terms: Terms | None = None

    def at(self, cache: Buffers | None) -> Step:
        """The same step as seen by one layer, with that layer's cache."""
        return self if cache is self.cache else replace(self, cache=cache)

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """`compute()`, done by the first layer that asks and remembered for the others."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    def visibility(self, window: int | None = None) -> Visibility:
        """Which keys each query may read: itself and what precedes it (the last `window` tokens, if given).

        Keys are this step's own tokens, or the used cache slots when there is a cache.
        """
        length = self.positions.shape[1]
        if window is None and self.start is not None and self.documents is None:
            if self.start == 0:
                return "causal"
            if length == 1:
                return "all"
        return self.once(("visibility", window, self.cache is None), lambda: self._mask(window))

    def _mask(self, window: int | None) -> Tensor:
        query = self.positions[:1] if self.start is not None else self.positions
        if self.cache is not None:
            slots = torch.arange(self.used, device=query.device)
            mask = slots <= query[..., None]
            if window is not None:
                mask &= slots > query[..., None] - window
            return mask[:, None]
        index = torch.arange(query.shape[1], device=query.device)
        mask = (index <= index[:, None])[None]
        if self.valid is not None:
            mask = mask & self.valid[:, None, :]
        if self.documents is not None:
            mask = mask & (self.documents[:, None, :] == self.documents[:, :, None])
        if window is not None:
            mask = mask & (self.positions[:, None, :] > self.positions[:, :, None] - window)
        # Padding reads only itself: its output is never used, but a row without any key would be NaN.
        return (mask | (index == index[:, None]))[:, None]


def positions_within(documents: Tensor | None, valid: Tensor | None, index: Tensor) -> Tensor:
    """Positions (B, T) that count the real tokens of each document from 0; documents must stand in one piece each."""
    real = torch.ones_like(index) if valid is None else valid.long()
    counted = real.cumsum(1)
    if documents is not None:
        begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
        counted = counted - torch.where(begins, counted - real, 0).cummax(1).values
    return (counted - 1).clamp(min=0)
