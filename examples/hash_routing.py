"""A router by token id: experts are a fixed hash of the token (Roller et al. 2021, arXiv 2106.04426)."""

import torch
from torch import nn

from litmus.nn import Routing


class HashRouter(nn.Module):
    def __init__(self, layer, experts, top_k):
        super().__init__()
        self.experts, self.top_k, self.salt = experts, top_k, 7919 * layer.index

    def forward(self, x, ctx):  # x (N, dim)
        first = (ctx.token_ids.flatten() + self.salt) * 2_654_435_761 // 65_536
        experts = (first[:, None] + torch.arange(self.top_k, device=x.device)) % self.experts
        shares = torch.zeros(len(x), self.experts, device=x.device).scatter(1, experts, 1 / self.top_k)
        return Routing(experts, shares.gather(1, experts), shares)


recipe = {
    "base": "standard",
    "feedforward": {"kind": "moe", "experts": 4, "top_k": 1, "router": HashRouter},
    "about": "Four experts, chosen by a hash of the token id.",
}
