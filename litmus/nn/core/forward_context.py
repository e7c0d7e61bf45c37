"""The context of a forward pass: what a layer needs besides the hidden states (positions, masks, cache)."""

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
"""Which keys each query attends to: a bool mask (B or 1, 1, T, S), or a name for two cases that need no mask."""


@dataclass(frozen=True)
class ForwardContext:
    """Positions, padding, documents and cache of the (B, T) tokens of one forward pass.

    positions: (B, T) position of each token in its row; restarts at each packed document and does not count padding.
    start_pos: the first position, if all rows have positions start_pos .. start_pos+T-1 and no padding; else None.
    padding_mask: (B, T) False at padding; None if every token is real.
    document_ids: (B, T) packed document of each token; tokens attend within their document only. None: one per row.
    cache: this layer's buffers while decoding, else None. Slot i of a row holds the token at position i.
    kv_len: number of cache slots to attend to: the most tokens that any row can have after this pass.
    memo_store: results that several layers use (masks, rotations), computed once per pass.
    observed: if not None, layers append their statistics here (e.g. attention entropy), by name.
    aux_losses: if not None, layers add auxiliary losses here (e.g. the load balance of a router).
    token_ids: (B, T) token ids, for parts with lookup tables.
    queries: the tokens whose hidden states the objective wants, for layers that can compute some alone. None: all.
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
    queries: Any = None

    @property
    def use_reference(self) -> bool:
        """Whether to compute by the slow reference instead of the fast path (see `litmus.nn.reference_path`)."""
        return use_reference()

    def with_cache(self, cache: Buffers | None) -> ForwardContext:
        """This context with `cache`, the buffers of one layer."""
        return self if cache is self.cache else replace(self, cache=cache)

    def memo(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The result of `compute()`, which is called once per forward pass and `key`."""
        if key not in self.memo_store:
            self.memo_store[key] = compute()
        return self.memo_store[key]

    @property
    def key_positions(self) -> Tensor:
        """Positions (B or 1, S) of all keys: the cache slots if there is a cache, else the tokens of this pass."""
        if self.cache is not None:
            return torch.arange(self.kv_len, device=self.positions.device)[None]
        return self.positions

    def causal_mask(self, window: int | None = None) -> Tensor:
        """`attention_mask`, always as a bool mask (B or 1, 1, T, S)."""
        return self.memo(("attention mask", window, self.cache is None), lambda: self._mask(window))

    def attention_mask(self, window: int | None = None) -> AttentionMask:
        """Causal mask: each query attends to itself and earlier tokens (the last `window` tokens, if given).

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
        # Padding attends to itself: its output is never used, but the softmax over no key is NaN.
        return (mask | (index == index[:, None]))[:, None]


def positions_within(document_ids: Tensor | None, padding_mask: Tensor | None, index: Tensor) -> Tensor:
    """Position (B, T) of each token in its document, without padding; documents are contiguous, index is arange(T)."""
    real = torch.ones_like(index) if padding_mask is None else padding_mask.long()
    counted = real.cumsum(1)
    if document_ids is not None:
        begins = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
        counted = counted - torch.where(begins, counted - real, 0).cummax(1).values
    return (counted - 1).clamp(min=0)


def has_values(tensor: Tensor) -> bool:
    """Whether the tensor has values; meta and fake tensors, with which costs are counted, have none."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))
