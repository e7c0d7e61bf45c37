"""A hand-written backward pass that forgets a term.

What it is. SiLU as an autograd function, x · sigmoid(x), whose backward returns sigmoid(x) alone.

Why it looks fine. The forward pass is right, and training goes down: the direction is roughly that of the gradient.

What it does to results. The idea is judged by a model that learns less than it could.

The sound version adds x · sigmoid'(x).
"""

import torch

from litmus.nn import Dense


class Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * s  # the fault: s + x * s * (1 - s)


class WrongBackward(Dense):
    def activation(self, h):
        return Silu.apply(h)


recipe = {"base": "standard", "feedforward": WrongBackward, "about": "Specimen - a wrong hand-written gradient."}
