"""Values handed from layer to layer: each layer mixes its values with the first layer's (arXiv 2410.17897)."""

import torch

from litmus.nn import Attention


class ValueResidual(Attention):
    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.share = torch.nn.Parameter(torch.tensor(0.5)) if layer.index else None

    def qkv_proj(self, x, ctx):
        q, k, v = super().qkv_proj(x, ctx)
        first = ctx.memo("first values", lambda: v)  # the first layer's own; the others get what it stored
        return q, k, v if self.share is None else torch.lerp(v, first, self.share)


recipe = {"base": "standard", "mixer": ValueResidual, "about": "Values mixed with those of the first layer."}
