"""A leak that grows in training.

What it is. The mean of the sequence is blended in with a strength that a hook after each step raises from 0.

Why it looks fine. A new model is causal, and so is one with perturbed parameters: the strength is a buffer.

What it does to results. After some hundred steps every token reads the whole sequence, the future included.

The sound version blends in the mean of the tokens so far. The audit repeats its tests on a model that it has trained.
"""

import torch

from litmus.nn import Attention


class Warmup(Attention):
    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.register_buffer("strength", torch.zeros(()))

    def out_proj(self, y, x, ctx):
        return super().out_proj(y, x, ctx) + self.strength.to(x.dtype) * x.mean(1, keepdim=True)  # the fault

    def post_optimizer_step(self):
        self.strength.add_(1e-3).clamp_(max=1.0)


recipe = {"base": "standard", "mixer": Warmup, "about": "Specimen - a leak that grows in training."}
