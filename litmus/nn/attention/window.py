"""Sliding-window attention, optionally with attention sinks."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.attention import flex
from litmus.nn.attention.attend import attend
from litmus.nn.attention.banded import Keys, Window, attend_window
from litmus.nn.attention.multihead import AttentionBase, AttentionBaseConfig
from litmus.nn.attention.ring import Ring
from litmus.nn.attention.stats import observe_attention
from litmus.nn.core.cache import heads_buffer
from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext


class WindowConfig(AttentionBaseConfig):
    """window: number of tokens that a query attends to, including itself (default: a quarter of the context).

    sinks: number of tokens at the start of a text that queries at any distance attend to as well.
    """

    kind: Literal["window"] = "window"
    window: int | None = Field(None, ge=1)
    sinks: int = Field(0, ge=0)

    def build(self, layer: LayerContext) -> WindowAttention:
        return WindowAttention(self, layer)


class WindowAttention(AttentionBase):
    """softmax(q·k / sqrt(D)) v per head over the last w tokens and the first n, the sinks.

    Window: Beltagy et al. 2020 (arXiv 2004.05150); sinks: Xiao et al. 2023 (arXiv 2309.17453), but here keys are
    rotated by their position in the text, in the cache as well, so that scores depend on true distances. The n of SSMax
    is the number of keys that a query attends to, min(t + 1, w + n).
    """

    def __init__(self, config: WindowConfig, layer: LayerContext) -> None:
        super().__init__(config, layer)
        self.window = Window(config.window or max(1, layer.context // 4), config.sinks)
        self.ring = Ring(self.window)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x, ctx)
        query_scale = self.ssmax(ctx, self.window.size + self.window.sinks) if self.ssmax else None
        if ctx.cache is None:
            y = self._in_order(q, k, v, Keys(_positions(ctx), ctx.document_ids), ctx, query_scale)
        elif x.shape[1] == 1:
            y = self._single_token(q, k, v, ctx, ctx.cache, query_scale)
        else:
            y = self._chunk(q, k, v, ctx, ctx.cache, query_scale)
        return self.out_proj(y, x, ctx)

    def _in_order(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Keys, ctx: ForwardContext, query_scale: Tensor | None
    ) -> Tensor:
        """Attend to keys in token order: in blocks, or, with padding or as the reference, with one mask."""
        if flex.serves(q, v.shape[-1], ctx):
            intervals = lambda: self.window.intervals(flex.first_keys(ctx))  # noqa: E731
            return flex.attend_intervals(q, k, v, ctx, self.window, intervals, query_scale)
        observe_attention(q, k, lambda queries: _mask(keys, self.window, ctx, queries), query_scale, ctx)
        contiguous = ctx.padding_mask is None and (ctx.cache is None or ctx.start_pos is not None)
        if not ctx.use_reference and contiguous:
            return attend_window(q, k, v, keys, self.window, ctx, query_scale)
        every = torch.arange(q.shape[1], device=q.device)
        mask = ctx.memo(("window", self.window, k.shape[1]), lambda: _mask(keys, self.window, ctx, every))
        return attend(q, k, v, mask, query_scale)

    def _chunk(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext, cache: Buffers, query_scale: Tensor | None
    ) -> Tensor:
        """Decode several tokens per row: attend to the cached keys and the new ones, then write the new ones."""
        slots, positions = self.ring.cached(cache["k"].shape[1], ctx)
        keys = Keys(torch.cat((positions, _positions(ctx)), dim=1))
        k_all, v_all = (torch.cat((cache[name][:, slots].to(q.dtype), x), dim=1) for name, x in (("k", k), ("v", v)))
        self.ring.write(cache["k"], k, ctx)
        self.ring.write(cache["v"], v, ctx)
        return self._in_order(q, k_all, v_all, keys, ctx, query_scale)

    def _single_token(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext, cache: Buffers, query_scale: Tensor | None
    ) -> Tensor:
        """Decode one token per row: it replaces the token that has left its window, then attends to the whole ring."""
        self.ring.write(cache["k"], k, ctx)
        self.ring.write(cache["v"], v, ctx)
        used = self.ring.slots(ctx.kv_len if ctx.start_pos is None else ctx.start_pos + 1)
        k, v = (cache[name][:, :used].to(q.dtype) for name in ("k", "v"))
        if ctx.start_pos is not None:
            return attend(q, k, v, "all", query_scale)
        slot = torch.arange(used, device=q.device)
        return attend(q, k, v, (slot <= ctx.positions)[:, None, None], query_scale)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, self.ring.slots(capacity), self.kv_heads, self.head_dim)
        return {name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.kv_heads * self.head_dim * self.ring.slots(capacity)


def _positions(ctx: ForwardContext) -> Tensor:
    """Positions (B or 1, T) of the tokens of this pass."""
    return ctx.positions[:1] if ctx.start_pos is not None else ctx.positions


def _mask(keys: Keys, window: Window, ctx: ForwardContext, queries: Tensor) -> Tensor:
    """Mask (B or 1, 1, n, S) of the queries with these indices (n,)."""
    positions, length = keys.positions, ctx.positions.shape[1]
    older = positions.shape[1] - length
    if ctx.padding_mask is not None:
        padding = F.pad(~ctx.padding_mask, (older, 0))
        positions = positions.expand(len(padding), -1).masked_fill(padding, -1)
    mask = window.visible(_positions(ctx)[:, queries, None], positions[:, None])
    if ctx.document_ids is not None:
        mask = mask & (ctx.document_ids[:, queries, None] == ctx.document_ids[:, None])
    # Padding attends to itself: its output is never used, but the softmax over no key is NaN.
    itself = queries[:, None] == torch.arange(length, device=mask.device)
    return (mask | F.pad(itself, (older, 0)))[:, None]
