"""Dropout with a fast random number generator on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ELEMENTS_PER_DRAW = 4
"""Elements that share one random number of 64 bits, 16 bits each."""


class Dropout(nn.Dropout):
    """y = x · m / (1 - p), m 0 with probability p (Srivastava et al. 2014), for x of any shape; y = x in evaluation.

    torch's dropout on a CPU draws one number per element in one thread, which took a fifth of a training step
    (bench/dropout.py). Here p is rounded to a multiple of 2^-16, and the factor 1 / (1 - p) uses the rounded p.
    """

    def forward(self, x: Tensor) -> Tensor:
        rounded = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < rounded < 2**16:
            return super().forward(x)
        numbers = torch.empty(-(-x.numel() // ELEMENTS_PER_DRAW), dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.view(torch.int16)[: x.numel()].view(x.shape) >= rounded - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - rounded))
