"""Sliding-window attention: a token reads the last few tokens and, where wanted, the first ones (attention sinks)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.attention.attend import attend
from litmus.nn.attention.banded import Keys, Window, attend_window
from litmus.nn.attention.multihead import AttentionBase, AttentionBaseConfig
from litmus.nn.attention.ring import Ring
from litmus.nn.attention.stats import observe_attention
from litmus.nn.core.cache import heads_buffer
from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext


class WindowConfig(AttentionBaseConfig):
    """A token reads the last `window` tokens, itself among them (default: a quarter of the context), and `sinks` first.

    Sinks are the first tokens of a text, which stay readable at any distance.
    """

    kind: Literal["window"] = "window"
    window: int | None = Field(None, ge=1)
    sinks: int = Field(0, ge=0)

    def build(self, layer: LayerContext) -> WindowAttention:
        return WindowAttention(self, layer)


class WindowAttention(AttentionBase):
    """softmax(q·k / sqrt(D)) v per head over the last w tokens (Beltagy et al. 2020, arXiv 2004.05150) and the first n

    (Xiao et al. 2023, arXiv 2309.17453). Keys keep the rotation of their place in the text, in the cache as well, so
    that scores depend on true distances. SSMax counts what a token reads, min(t + 1, w + n).
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
            y = self._one_by_one(q, k, v, ctx, ctx.cache, query_scale)
        else:
            y = self._behind_old(q, k, v, ctx, ctx.cache, query_scale)
        return self.out_proj(y, x, ctx)

    def _in_order(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Keys, ctx: ForwardContext, query_scale: Tensor | None
    ) -> Tensor:
        """Read keys that stand in the order of their tokens: in blocks, or by the definition, under one mask."""
        observe_attention(q, k, lambda some: _mask(keys, self.window, ctx, some), query_scale, ctx)
        side_by_side = ctx.padding_mask is None and (ctx.cache is None or ctx.start_pos is not None)
        if not ctx.use_reference and side_by_side:
            return attend_window(q, k, v, keys, self.window, ctx, query_scale)
        every = torch.arange(q.shape[1], device=q.device)
        mask = ctx.memo(("window", self.window, k.shape[1]), lambda: _mask(keys, self.window, ctx, every))
        return attend(q, k, v, mask, query_scale)

    def _behind_old(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext, cache: Buffers, query_scale: Tensor | None
    ) -> Tensor:
        """Read what the ring holds and the new keys behind it; then the new ones take their places in the ring."""
        slots, positions = self.ring.held(cache["k"].shape[1], ctx)
        keys = Keys(torch.cat((positions, _positions(ctx)), dim=1))
        k_all, v_all = (torch.cat((cache[name][:, slots].to(q.dtype), x), dim=1) for name, x in (("k", k), ("v", v)))
        self.ring.write(cache["k"], k, ctx)
        self.ring.write(cache["v"], v, ctx)
        return self._in_order(q, k_all, v_all, keys, ctx, query_scale)

    def _one_by_one(
        self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext, cache: Buffers, query_scale: Tensor | None
    ) -> Tensor:
        """A single token takes the place of the one that has just left its window, and reads all that is there."""
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
    """The positions (B or 1, T) of this step's tokens."""
    return ctx.positions[:1] if ctx.start_pos is not None else ctx.positions


def _mask(keys: Keys, window: Window, ctx: ForwardContext, queries: Tensor) -> Tensor:
    """Which keys the queries of these numbers (n,) read, (B or 1, 1, n, S)."""
    positions, length = keys.positions, ctx.positions.shape[1]
    older = positions.shape[1] - length
    if ctx.padding_mask is not None:
        nowhere = F.pad(~ctx.padding_mask, (older, 0))
        positions = positions.expand(len(nowhere), -1).masked_fill(nowhere, -1)
    mask = window.visible(_positions(ctx)[:, queries, None], positions[:, None])
    if ctx.document_ids is not None:
        mask = mask & (ctx.document_ids[:, queries, None] == ctx.document_ids[:, None])
    # Padding reads only itself: its output is never used, but a row without any key would be NaN.
    itself = queries[:, None] == torch.arange(length, device=mask.device)
    return (mask | F.pad(itself, (older, 0)))[:, None]
