"""F5 - Scalable-Softmax with the tensor's length in place of each query's own number of keys.

What was published. Super-transformers multiplies attention scores by s·log n (Nakanishi 2025) with
n = keys.shape[1], one number for all queries.

Why it looked fine. No query sees a later token, the loss falls, and s is learned.

What it does to results. In training n is always the context length: s·log n is a constant temperature, and nothing
scalable has been tested. In decoding n grows with the text: a third setting that training never had. The logits of a
prefix change when tokens are appended to it, padding included, and a cached model is not the trained model.

The sound version uses n = position + 1 of each query; in Litmus `SSMax` does.
"""

from math import log
from typing import Literal

import torch
from torch import Tensor, nn

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


class SSMaxTensorLengthConfig(MixerConfig):
    kind: Literal["ssmax_tensor_length"] = "ssmax_tensor_length"

    def build(self, layer: LayerContext) -> Mixer:
        return SSMaxTensorLength(layer)


class SSMaxTensorLength(Mixer):
    """Attention with weights softmax(s·log n · q·k / sqrt(D)); s is learned per head."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.rotation = layer.rotation(self.head_dim)
        self.qkv = linear(layer.dim, 3 * layer.dim)
        self.out = residual_linear(layer.dim, layer)
        self.scale = nn.Parameter(torch.full((self.heads,), 0.168))

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)  # (B, T, H, D) each
        if self.rotation is not None:
            q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        # The fault: one n for all queries, from the tensor's shape.
        query_scale = self.scale[None, None] * log(k.shape[1])
        return self.out(attend(q, k, v, ctx.attention_mask(), query_scale).flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


recipe = {
    "base": "standard",
    "about": "Specimen F5 - Scalable-Softmax whose n is the tensor's length.",
    "mixer": {"kind": "ssmax_tensor_length"},
}
