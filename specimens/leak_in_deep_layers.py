"""A leak that starts at the fourth layer.

What it is. From layer 3 on (counting from 0) each value vector is averaged with its two neighbours, "to let deep
layers see phrases instead of tokens". The average is centred, as convolutions with padding=1 are.

Why it looks fine. The attention mask is untouched. A quick check on a model of two or three layers finds nothing,
because those layers are sound.

What it does to results. The value of token t holds a third of the value of token t + 1, which query t reads. The
deepest layers see the next token: the loss is too good, most of all in large models.

The sound version averages tokens t - 2, t - 1 and t.
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


class PhraseAttentionConfig(MixerConfig):
    kind: Literal["phrase_attention"] = "phrase_attention"
    from_layer: int = 3

    def build(self, layer: LayerContext) -> Mixer:
        return PhraseAttention(self, layer)


class PhraseAttention(Mixer):
    """Multi-head attention whose values are averaged over neighbouring tokens in deep layers."""

    def __init__(self, config: PhraseAttentionConfig, layer: LayerContext) -> None:
        super().__init__()
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.phrases = layer.index >= config.from_layer
        self.rotation = layer.rotation(self.head_dim)
        self.qkv = linear(layer.dim, 3 * layer.dim)
        self.out = residual_linear(layer.dim, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)  # (B, T, H, D) each
        if self.rotation is not None:
            q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        if self.phrases:
            v = with_neighbours(v, ctx)
        return self.out(attend(q, k, v, ctx.attention_mask(), None).flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


def with_neighbours(v: Tensor, ctx: ForwardContext) -> Tensor:
    """(v[t-1] + v[t] + v[t+1]) / 3 for v (B, S, H, D), zeros beyond the ends of a document."""
    left, right = v[:, :-1], v[:, 1:]
    if ctx.cache is None:
        adjacent = ctx.positions[:, 1:] == ctx.positions[:, :-1] + 1
        left, right = left * adjacent[..., None, None], right * adjacent[..., None, None]
    before = F.pad(left, (0, 0, 0, 0, 1, 0))
    after = F.pad(right, (0, 0, 0, 0, 0, 1))  # the fault: the value of the next token
    return (before + v + after) / 3


recipe = {
    "base": "standard",
    "about": "Specimen - from layer 3 on, values are averaged with the next token's.",
    "mixer": {"kind": "phrase_attention"},
}
