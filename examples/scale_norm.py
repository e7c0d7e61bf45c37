"""A norm as a plain torch module: g · x / |x| with one learned number g (Nguyen & Salazar 2019, arXiv 1910.05895)."""

import torch
from torch import nn


class ScaleNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(dim**0.5))

    def forward(self, x):
        return self.scale * nn.functional.normalize(x, dim=-1)


recipe = {"base": "standard", "norm": ScaleNorm, "about": "Vectors of one learned length in place of RMSNorm."}
