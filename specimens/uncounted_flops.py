"""A dense layer written as broadcast and sum.

What it is. x[..., None] * W, summed: the same numbers as a matrix product.

Why it looks fine. It computes the right thing, and its FLOPs are reported as none, because no counter sees them.

What it does to results. The cost column shows a saving that does not exist; it is slower and takes B · T · dim · hidden
elements of memory.

The sound version is a matrix product.
"""

import torch
from torch import nn
from torch.nn import functional as F


class UncountedFlops(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.up = nn.Parameter(0.02 * torch.randn(dim, 4 * dim))
        self.down = nn.Parameter(0.01 * torch.randn(4 * dim, dim))

    def forward(self, x):
        h = F.gelu((x[..., None] * self.up).sum(-2))  # the fault
        return (h[..., None] * self.down).sum(-2)  # and here


recipe = {
    "base": "standard",
    "depth": 2,  # it is slow
    "context": 64,
    "feedforward": UncountedFlops,
    "about": "Specimen - products that no counter sees.",
}
