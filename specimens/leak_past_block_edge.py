"""A leak that needs a sequence of at least one whole block (64 tokens).

What it is. Each query attends to the last 64 tokens and, beyond them, to one summary (mean key, mean value) per
finished block of 64, so that old text stays readable. A summary is shown to the queries that come after the block's
*first* token; it should be shown to those that come after its last.

Why it looks fine. A sequence shorter than a block has no finished block: on every test of up to 63 tokens this is
plain causal attention, cached decoding included.

What it does to results. In training, every query within a block reads the mean of the whole block, the tokens that
it has to predict included. Validation at full length leaks in the same way, and so looks excellent; decoding cannot.

The sound version compares the query with the end of the block: change `begin` to `end` where the fault is marked.
"""

from typing import Literal

import torch
from torch import Tensor

from litmus.nn import (
    Buffers,
    ForwardContext,
    LayerContext,
    Mixer,
    MixerConfig,
    attend,
    linear,
    residual_linear,
    update_kv,
)


class BlockSummaryConfig(MixerConfig):
    kind: Literal["block_summary"] = "block_summary"
    block: int = 64

    def build(self, layer: LayerContext) -> Mixer:
        return BlockSummary(self, layer)


class BlockSummary(Mixer):
    """One softmax over the last `block` tokens and the summaries of finished blocks."""

    def __init__(self, config: BlockSummaryConfig, layer: LayerContext) -> None:
        super().__init__()
        self.block = config.block
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.rotation = layer.rotation(self.head_dim)
        self.qkv = linear(layer.dim, 3 * layer.dim)
        self.out = residual_linear(layer.dim, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)  # (B, T, H, D) each
        if self.rotation is not None:
            q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        visible = ctx.attention_mask(window=self.block)
        if k.shape[1] >= self.block:
            # A mean for every run of `block` tokens; only those of whole blocks are ever read.
            summaries = ctx.memo(("summaries", self.block), lambda: self.readable(ctx, k.shape[1]))
            visible = torch.cat((visible.expand(len(x), -1, -1, -1), summaries), dim=-1)
            k, v = (torch.cat((kv, kv.unfold(1, self.block, 1).mean(-1)), dim=1) for kv in (k, v))
        return self.out(attend(q, k, v, visible, None).flatten(-2))

    def readable(self, ctx: ForwardContext, keys: int) -> Tensor:
        """Which runs of `block` tokens each query may read a summary of: (B, 1, T, keys - block + 1)."""
        slots = torch.arange(keys, device=ctx.positions.device).expand(len(ctx.positions), -1)
        end = (ctx.positions if ctx.cache is None else slots)[:, None, self.block - 1 :]
        begin = end - self.block + 1
        visible = (begin % self.block == 0) & (begin <= ctx.positions[..., None])  # the fault: `end` belongs here
        if ctx.cache is not None:
            visible = visible & (end <= ctx.positions.amax(1)[:, None, None])  # slots beyond a row's end are empty
        if ctx.cache is None and ctx.padding_mask is not None:
            visible = visible & ctx.padding_mask[:, None, self.block - 1 :]
        if ctx.document_ids is not None:
            visible = visible & (ctx.document_ids[:, None, self.block - 1 :] == ctx.document_ids[..., None])
        return visible[:, None]

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


recipe = {
    "base": "standard",
    "about": "Specimen - summaries of whole blocks, readable from within the block.",
    "mixer": {"kind": "block_summary"},
}
