"""The context of a forward pass: what each layer is told about its tokens besides their vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from litmus.nn.core.aux_losses import AuxLosses
from litmus.nn.core.batch import use_reference

Buffers = dict[str, Tensor]
"""One layer's cache: named buffers whose first dimension is the batch row."""

AttentionMask = Tensor | Literal["causal", "all"]
"""Which keys a query may read: a bool mask (B or 1, 1, T, S), or one of two shapes that need no mask."""


@dataclass(frozen=True)
class ForwardContext:
    """Positions, padding, documents and cache of the (B, T) tokens of one forward pass.

    positions: (B, T) position of each token in its row; restarts at each isolated document, ignores padding.
    start_pos: the common first position if every row holds start_pos .. start_pos+T-1 without padding, else None.
    padding_mask: (B, T) False at padding; None if every token is real.
    document_ids: (B, T) document number of each token, for packed documents that must not see each other.
    cache: this layer's buffers while decoding, else None. Slot i of a row holds the token at position i.
    kv_len: number of cache slots that can hold a token after this pass, the same for every row.
    memo_store: results that several layers need (masks, rotations), computed once per pass.
    observed: collects layer statistics (attention entropy), if they were asked for.
    aux_losses: collects terms of the training loss (a router's balance) while it is computed.
    token_ids: (B, T) the tokens themselves, for parts that look something up by token.
    """

    positions: Tensor
    start_pos: int | None = 0
    padding_mask: Tensor | None = None
    document_ids: Tensor | None = None
    cache: Buffers | None = None
    kv_len: int = 0
    memo_store: dict[Any, Any] = field(default_factory=dict)
    observed: dict[str, list[Tensor]] | None = None
    aux_losses: AuxLosses | None = None
    token_ids: Tensor | None = None

    @property
    def use_reference(self) -> bool:
        """Whether mechanisms take their plain reference (`litmus.nn.reference_path`) in place of their fast path."""
        return use_reference()

    def with_cache(self, cache: Buffers | None) -> ForwardContext:
        """The same context with the cache of one layer."""
        return self if cache is self.cache else replace(self, cache=cache)

    def memo(self, key: Any, compute: Callable[[], Any]) -> Any:
        """`compute()`, called by the first layer that needs it and kept for the others."""
        if key not in self.memo_store:
            self.memo_store[key] = compute()
        return self.memo_store[key]

    @property
    def key_positions(self) -> Tensor:
        """The positions (B or 1, S) of all keys: the cache's slots, or the tokens of this pass."""
        if self.cache is not None:
            return torch.arange(self.kv_len, device=self.positions.device)[None]
        return self.positions

    def causal_mask(self, window: int | None = None) -> Tensor:
        """`attention_mask` as a bool mask (B or 1, 1, T, S) in every case."""
        return self.memo(("attention mask", window, self.cache is None), lambda: self._mask(window))

    def attention_mask(self, window: int | None = None) -> AttentionMask:
        """Which keys each query may read: itself and what precedes it (the last `window` tokens, if given).

        Keys are the tokens of this pass, or the first kv_len cache slots if there is a cache.
        """
        length = self.positions.shape[1]
        if window is None and self.start_pos is not None and self.document_ids is None:
            if self.start_pos == 0:
                return "causal"
            if length == 1:
                return "all"
        return self.causal_mask(window)

    def _mask(self, window: int | None) -> Tensor:
        query = self.positions[:1] if self.start_pos is not None else self.positions
        if self.cache is not None:
            slots = torch.arange(self.kv_len, device=query.device)
            mask = slots <= query[..., None]
            if window is not None:
                mask &= slots > query[..., None] - window
            return mask[:, None]
        index = torch.arange(query.shape[1], device=query.device)
        mask = (index <= index[:, None])[None]
        if self.padding_mask is not None:
            mask = mask & self.padding_mask[:, None, :]
        if self.document_ids is not None:
            mask = mask & (self.document_ids[:, None, :] == self.document_ids[:, :, None])
        if window is not None:
            mask = mask & (self.positions[:, None, :] > self.positions[:, :, None] - window)
        # Padding reads only itself: its output is never used, but a row without any key would be NaN.
        return (mask | (index == index[:, None]))[:, None]


def positions_within(document_ids: Tensor | None, padding_mask: Tensor | None, index: Tensor) -> Tensor:
    """Positions (B, T) that count the real tokens of each document from 0; documents must be contiguous."""
    real = torch.ones_like(index) if padding_mask is None else padding_mask.long()
    counted = real.cumsum(1)
    if document_ids is not None:
        begins = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
        counted = counted - torch.where(begins, counted - real, 0).cummax(1).values
    return (counted - 1).clamp(min=0)


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor holds numbers: those on the meta device and fake ones, used to count costs, hold none."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))
