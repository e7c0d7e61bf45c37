"""Causal compressed attention: blocks of past tokens are compressed to latents, recent tokens are kept in full."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.nn.attention import flex
from litmus.nn.attention.attend import attend
from litmus.nn.attention.compressed_blocks import (
    Layout,
    Shape,
    attend_in_chunks,
    chunk_masks,
    compress,
    definition,
    gather_blocks,
    layout_of,
    padding_last,
)
from litmus.nn.attention.compressed_cache import CompressedCache
from litmus.nn.attention.multihead import AttentionBase, AttentionBaseConfig
from litmus.nn.attention.stats import observe_attention
from litmus.nn.core.cache import heads_buffer
from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.layers.linear import linear


class CompressedConfig(AttentionBaseConfig):
    """Options; in the formulas block is m, latents r, window w.

    block: tokens per block. latents: keys and values that a block is compressed to, per head. window: number of recent
    tokens that are attended to uncompressed.
    """

    kind: Literal["compressed"] = "compressed"
    block: int = Field(16, ge=1)
    latents: int = Field(1, ge=1)
    window: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.latents > self.block:
            raise BadInput(
                f"latents = {self.latents} of a block of {self.block} tokens would be no compression; "
                f"1 to {self.block} are valid"
            )
        if self.window < self.block:
            raise BadInput(
                f"window = {self.window} leaves tokens of an unfinished block of {self.block} unread; "
                f"{self.block} or more is valid"
            )
        return self

    def build(self, layer: LayerContext) -> CompressedAttention:
        return CompressedAttention(self, layer)


class CompressedAttention(AttentionBase):
    """Attention to latents of completed past blocks and to a window of tokens (Zhu et al. 2021, arXiv 2107.02192).

    Block b of m tokens: A_b = softmax over its tokens of (x W_Z + B), latents A_bᵀ K_b and A_bᵀ V_b. The query at
    position t attends, in one softmax, to the latents with (b + 1)·m <= t and the keys with t - w < j <= t. Keys are
    rotated before compression, so that a latent has about the position of its tokens.
    """

    def __init__(self, config: CompressedConfig, layer: LayerContext) -> None:
        super().__init__(config, layer)
        self.shape = Shape(config.block, config.latents, config.window)
        self.cache_layout = CompressedCache(self.shape)
        self.scores = linear(layer.dim, self.kv_heads * config.latents)
        self.offsets = nn.Parameter(torch.zeros(config.block, self.kv_heads, config.latents))

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x, ctx)
        positions = ctx.positions[:1] if ctx.start_pos is not None else ctx.positions
        scores = self.scores(x).unflatten(-1, (self.kv_heads, -1)) + self.offsets[positions % self.shape.block]
        if self.ssmax is not None:
            query_scale = self.ssmax(ctx, keys=self.shape.keys(positions))
            q = (q * query_scale[..., None]).to(q.dtype)
        if ctx.cache is not None and x.shape[1] == 1:
            keys, values, attention_mask = self.cache_layout.append(k, v, scores, ctx, ctx.cache)
            y = attend(q, keys.to(q.dtype), values.to(q.dtype), attention_mask)
        elif ctx.padding_mask is not None and (ctx.cache is not None or not ctx.use_reference):
            reordered, order = ctx.memo("padding last", lambda: padding_last(ctx))
            q, k, v, scores = (part.take_along_dim(order[..., None, None], 1) for part in (q, k, v, scores))
            y = self.attend_many(q, k, v, scores, reordered.with_cache(ctx.cache))
            y = torch.zeros_like(y).scatter(1, order[..., None, None].expand_as(y), y)
        elif ctx.cache is not None or not ctx.use_reference:
            y = self.attend_many(q, k, v, scores, ctx)
        else:
            keys, values, mask = definition(ctx, self.shape, scores, k, v)
            observe_attention(q, keys, mask, None, ctx)
            y = attend(q, keys, values, mask)
        return self.out_proj(y, x, ctx)

    def attend_many(self, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, ctx: ForwardContext) -> Tensor:
        """Attention outputs (B, T, H, D) of several tokens, in training or prefill; padding comes last."""
        if ctx.cache is not None:
            keys, values, layout = self.cache_layout.extend(k, v, scores, ctx, ctx.cache)
        else:
            layout = ctx.memo(("layout", self.shape), lambda: layout_of(ctx, self.shape))
            weights = gather_blocks(scores, layout.begins, self.shape.block).softmax(2)
            keys, values = ((x, self.latents(weights, x, layout)) for x in (k, v))
        every, blocks = slice(0, keys[0].shape[1]), layout.begins.shape[1]
        if ctx.observed is not None:
            visible = lambda queries: layout.visible(self.shape, queries, every, blocks)  # noqa: E731
            observe_attention(q, torch.cat(keys, 1), visible, None, ctx)
        if flex.serves(q, v.shape[-1], ctx):
            both_k, both_v = torch.cat(keys, 1), torch.cat(values, 1)
            return flex.attend_intervals(q, both_k, both_v, ctx, self.shape, lambda: layout.intervals(self.shape))
        if not ctx.use_reference:
            masks = ctx.memo(("masks", self.shape), lambda: chunk_masks(q.shape[1], layout, self.shape))
            return attend_in_chunks(q, keys, values, layout, self.shape, masks)
        mask = layout.visible(self.shape, slice(0, q.shape[1]), every, blocks)
        return attend(q, torch.cat(keys, 1), torch.cat(values, 1), mask, None)

    def latents(self, weights: Tensor, x: Tensor, layout: Layout) -> Tensor:
        """Latents (B, N·r, G, D) of the blocks of x (B, T, G, D)."""
        return compress(weights, gather_blocks(x, layout.begins, self.shape.block)).flatten(1, 2)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, self.cache_layout.slots(capacity), self.kv_heads, self.head_dim)
        scores = torch.zeros(batch, self.shape.block, self.kv_heads, self.shape.latents, device=device, dtype=dtype)
        return {**{name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}, "scores": scores}

    def kv_elements(self, capacity: int) -> int:
        keys = 2 * self.cache_layout.slots(capacity) * self.head_dim
        return self.kv_heads * (keys + self.shape.block * self.shape.latents)
