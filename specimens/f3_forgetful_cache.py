"""F3 - A cache that forgets the prompt, and a decoded query that always stands at position 0.

What was published. Super-transformers and MiniDeepSeek write the cache only `if start_pos > 0`, to spare the first
pass a copy, and cut their table of rotations to the length of the tensor at hand.

Why it looked fine. Training never uses the cache. The first pass over the prompt is right, and so is the first new
token. Text comes out; it is judged by eye, from a small model.

What it does to results. From the second new token on, the prompt's slots are still zero: the answer does not depend on
the question, and two prompts of one length give bit-identical logits. Every decoded token is rotated as if it stood
at position 0, so that even what is in the cache is read at wrong distances. Any quality, speed or memory figure of
decoding describes another model than the one that was trained.

The sound version writes the cache in every step that has one, and rotates by `ctx.positions`.
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


class ForgetfulCacheConfig(MixerConfig):
    kind: Literal["forgetful_cache"] = "forgetful_cache"

    def build(self, layer: LayerContext) -> Mixer:
        return ForgetfulCache(layer)


class ForgetfulCache(Mixer):
    """Multi-head attention with rotated queries and keys; in training there is nothing wrong with it."""

    def __init__(self, layer: LayerContext) -> None:
        super().__init__()
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.qkv = linear(layer.dim, 3 * layer.dim)
        self.out = residual_linear(layer.dim, layer)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)  # (B, T, H, D) each
        q, k = rotate(q), rotate(k)
        started = ctx.kv_len > x.shape[1]  # the cache held tokens before these: start_pos > 0
        if ctx.cache is not None and started:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        else:
            ctx = ctx.with_cache(None)  # the fault: the prompt attends to itself and is never written
        return self.out(attend(q, k, v, ctx.attention_mask(), None).flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


def rotate(x: Tensor, theta: float = 10_000.0) -> Tensor:
    """RoPE of x (B, T, H, D) for the positions 0 .. T-1."""
    width = x.shape[-1]
    exact = torch.promote_types(x.dtype, torch.float32)
    frequency = theta ** (-torch.arange(0, width, 2, device=x.device, dtype=exact) / width)
    # The other half of the fault: positions are counted from the start of the tensor, not of the row.
    angle = (torch.arange(x.shape[1], device=x.device)[:, None] * frequency)[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


recipe = {
    "base": "standard",
    "about": "Specimen F3 - a cache that forgets the prompt, and decoded queries at position 0.",
    "mixer": {"kind": "forgetful_cache"},
}
