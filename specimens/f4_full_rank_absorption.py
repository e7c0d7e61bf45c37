"""F4 - "Weight absorption" that multiplies the low rank away and caches full keys and values.

What was published. Super-transformers and MiniDeepSeek build latent attention (DeepSeek-V2) with a down-projection
W_DKV and up-projections W_UK, W_UV, then "absorb" them by forming the products W_UK W_DKV and W_UV W_DKV.

Why it looked fine. The outputs are exactly those of latent attention, and the paper does speak of absorption.

What it does to results. The products are full matrices: at the project's sizes 32 768 multiply-adds per token and
projection where the two thin steps take 16 384. And what is cached is K and V of every head, as in plain attention.
A latent cache is reported; none exists. (It also forbids the RMSNorm on the latent that the paper has.)

The sound version caches the latent c_t and the one rotated key, and at decoding folds W_UK into the query and W_UV
into the output: score = (W_UK^T q)·c. Nothing of full rank is ever formed.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

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


class FullRankAbsorptionConfig(MixerConfig):
    kind: Literal["full_rank_absorption"] = "full_rank_absorption"
    kv_rank: int = 32
    rope_dim: int = 16

    def build(self, layer: LayerContext) -> Mixer:
        return FullRankAbsorption(self, layer)


class FullRankAbsorption(Mixer):
    """Latent attention: k = [W_UK W_DKV x ; RoPE(W_KR x)], v = W_UV W_DKV x, the rotated part shared by all heads."""

    def __init__(self, config: FullRankAbsorptionConfig, layer: LayerContext) -> None:
        super().__init__()
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.kv_rank, self.rope_dim = config.kv_rank, config.rope_dim
        self.rotation = layer.rotation(self.rope_dim)
        width = self.heads * self.head_dim
        self.q = linear(layer.dim, self.heads * (self.head_dim + self.rope_dim))
        self.down = linear(layer.dim, self.kv_rank)
        self.up_k = linear(self.kv_rank, width)
        self.up_v = linear(self.kv_rank, width)
        self.shared_k = linear(layer.dim, self.rope_dim)
        self.out = residual_linear(width, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1))
        q, q_rope = q.split((self.head_dim, self.rope_dim), dim=-1)
        # The fault: (dim x rank) times (rank x dim) is a dim x dim matrix again.
        k = F.linear(x, self.up_k.weight @ self.down.weight).unflatten(-1, (self.heads, -1))
        v = F.linear(x, self.up_v.weight @ self.down.weight).unflatten(-1, (self.heads, -1))
        k_rope = self.shared_k(x)[:, :, None]  # (B, T, 1, rope_dim)
        if self.rotation is not None:
            q_rope, k_rope = self.rotation(q_rope, ctx), self.rotation(k_rope, ctx)
        q = torch.cat((q, q_rope), dim=-1)
        k = torch.cat((k, k_rope.expand(-1, -1, self.heads, -1)), dim=-1)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        return self.out(attend(q, k, v, ctx.attention_mask(), None).flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        rows = (batch, capacity, self.heads)
        return {
            "k": torch.zeros(*rows, self.head_dim + self.rope_dim, device=device, dtype=dtype),
            "v": torch.zeros(*rows, self.head_dim, device=device, dtype=dtype),
        }

    def kv_elements(self, capacity: int) -> int:
        return (self.kv_rank + self.rope_dim) * capacity  # what latent attention needs, and what was claimed


recipe = {
    "base": "standard",
    "about": "Specimen F4 - latent attention whose absorption restores full rank and caches full keys and values.",
    "mixer": {"kind": "full_rank_absorption"},
}
