"""A feedforward that reads the token before: RWKV's channel mix (Peng et al. 2023, arXiv 2305.13048)."""

import torch
from torch import nn

from litmus.nn import CausalConv, linear, residual_linear


class ChannelMix(nn.Module):
    """sigmoid(W_r x) · W_v relu(W_k (x + shift of x))²; the shift is a causal convolution of width 2."""

    def __init__(self, layer):
        super().__init__()
        self.shift = CausalConv(layer.dim, 2)
        self.receive, self.key = linear(layer.dim, layer.dim), linear(layer.dim, 3 * layer.dim)
        self.value = residual_linear(3 * layer.dim, layer)

    def forward(self, x, ctx):
        mixed = self.shift.here(x) + self.shift.before(x, ctx, ctx.cache["before"] if ctx.cache else None)
        return self.receive(x).sigmoid() * self.value(self.key(mixed).relu().square())

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"before": torch.zeros(batch, 1, self.receive.in_features, device=device, dtype=dtype)}


recipe = {"base": "standard", "feedforward": ChannelMix, "about": "A feedforward that also reads the token before."}
