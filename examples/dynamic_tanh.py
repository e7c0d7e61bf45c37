"""A norm as a plain torch module: DyT, w · tanh(a · x) + b (Zhu et al. 2025, arXiv 2503.10622)."""

import torch
from torch import nn


class DynamicTanh(nn.Module):
    def __init__(self, dim, init: float = 0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(init))
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return torch.tanh(self.alpha * x) * self.weight + self.bias


recipe = {"base": "standard", "norm": DynamicTanh, "about": "A squashing function in place of normalization."}
