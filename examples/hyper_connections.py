"""Several residual streams: a block may pass on any shape, as long as the first layer opens it and the last closes it.

Static hyper-connections (Zhu et al. 2024, arXiv 2409.19606): n streams, mixed by learned weights around each layer.
"""

import torch
from torch import nn

from litmus.nn import Block


class HyperConnections(Block):
    """Streams s (B, T, n, dim): read sum_i a_i s_i, compute the layer on it, then s <- M s + b · (what it added)."""

    def __init__(self, layer, streams: int = 2):
        super().__init__()
        self.norm, self.mixer = layer.norm(), layer.new_mixer()
        self.feedforward_norm, self.feedforward = layer.norm(), layer.new_feedforward()
        self.first, self.last, self.streams = layer.index == 0, layer.index == layer.depth - 1, streams
        self.read = nn.Parameter(torch.full((2, streams), 1 / streams))
        self.mix = nn.Parameter(torch.eye(streams).repeat(2, 1, 1))
        self.write = nn.Parameter(torch.ones(2, streams))

    def forward(self, x, ctx):
        s = x[:, :, None].repeat(1, 1, self.streams, 1) if self.first else x
        s = self.update(0, s, lambda h: self.mixer(self.norm(h), ctx))
        s = self.update(1, s, lambda h: self.feedforward(self.feedforward_norm(h), self.feedforward_context(ctx)))
        return s.mean(2) if self.last else s

    def update(self, half, s, compute):
        added = compute(torch.einsum("n,btnd->btd", self.read[half], s))
        return torch.einsum("mn,btnd->btmd", self.mix[half], s) + self.write[half, :, None] * added[:, :, None]


recipe = {"base": "standard", "block": HyperConnections, "about": "Two residual streams with learned connections."}
