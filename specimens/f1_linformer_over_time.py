"""F1 - Keys and values compressed over time: every position sees the future.

What was published. The mini_deepseek report calls this "multi-head latent attention": K_lat = P_k K and
V_lat = P_v V with learned P of shape (L, T), so that T keys become L latents and attention costs T·L. It is
Linformer (Wang et al. 2020), which was made for encoders.

Why it looked fine. It trains, the shapes are right, the loss falls far below that of plain attention, and a
perplexity of 6.3 was reported.

What it does to results. Each latent is a sum over all positions, later ones included. No causal mask can be put
back after that: the model reads the token it is asked to predict. Training and validation loss measure copying,
while generation, where the future does not exist yet, yields gibberish.

The sound version compresses blocks that lie wholly in the past (causal compressed attention), or compresses the
width of each key and keeps one per token (DeepSeek's latent attention).
"""

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


class LinformerOverTimeConfig(MixerConfig):
    kind: Literal["linformer_over_time"] = "linformer_over_time"
    latents: int = 32

    def build(self, layer: LayerContext) -> Mixer:
        return LinformerOverTime(self, layer)


class LinformerOverTime(Mixer):
    """softmax(Q (P_k K)^T / sqrt(D)) (P_v V), per head."""

    def __init__(self, config: LinformerOverTimeConfig, layer: LayerContext) -> None:
        super().__init__()
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.rotation = layer.rotation(self.head_dim)
        self.qkv = linear(layer.dim, 3 * layer.dim)
        self.out = residual_linear(layer.dim, layer)
        self.compress_k = nn.Parameter(torch.randn(config.latents, layer.context) / layer.context**0.5)
        self.compress_v = nn.Parameter(torch.randn(config.latents, layer.context) / layer.context**0.5)

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)  # (B, T, H, D) each
        if self.rotation is not None:
            q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        elif ctx.padding_mask is not None:
            k, v = k * ctx.padding_mask[..., None, None], v * ctx.padding_mask[..., None, None]
        # The fault: the sum over s runs over all tokens of the sequence, whichever query will read the latent.
        length = min(k.shape[1], self.compress_k.shape[1])
        k = torch.einsum("ls,bshd->blhd", self.compress_k[:, :length], k[:, :length])
        v = torch.einsum("ls,bshd->blhd", self.compress_v[:, :length], v[:, :length])
        return self.out(attend(q, k, v, "all", None).flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


recipe = {
    "base": "standard",
    "about": "Specimen F1 - keys and values compressed over time, so that every position sees the future.",
    "mixer": {"kind": "linformer_over_time"},
}
