"""A small leak in attention that is computed in bf16, whatever the model's type.

What it is. Queries, keys and values are cast to bf16 for speed, and 0.003 of the next token's output is added.

Why it looks fine. Everything differs by about 0.4 % anyway: a test with a tolerance for bf16 sees nothing.

What it does to results. Training learns to read the small part: it holds the next token.

The sound version has no smoothing. The audit lifts the casts to fp64, so that its tolerance need not allow for them.
"""

import torch
from torch.nn import functional as F

from litmus.nn import Attention


class LeaksUnderCast(Attention):
    def qkv_proj(self, x, ctx):
        return tuple(part.to(torch.bfloat16).to(part.dtype) for part in super().qkv_proj(x, ctx))

    def out_proj(self, y, x, ctx):
        if ctx.cache is None:
            y = y + 0.003 * F.pad(y[:, 1:], (0, 0, 0, 0, 0, 1))  # the fault: the output of the next token
        return super().out_proj(y, x, ctx)


recipe = {"base": "standard", "mixer": LeaksUnderCast, "about": "Specimen - a small leak under a cast to bf16."}
