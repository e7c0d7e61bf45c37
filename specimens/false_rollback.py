"""A running state that claims that its last tokens can be removed.

What it is. A decaying memory says `supports_rollback`, which holds for caches with one slot per token.

Why it looks fine. Decoding token by token is right.

What it does to results. Speculative decoding removes rejected tokens by shortening the cache; here they stay.

The sound version does not claim it.
"""

import torch

from litmus.nn import Mixer, linear, recurrent_scan, residual_linear


class FalseRollback(Mixer):
    supports_rollback = True  # the fault

    def __init__(self, layer):
        super().__init__()
        self.into, self.gate = linear(layer.dim, layer.dim), linear(layer.dim, layer.dim)
        self.out = residual_linear(layer.dim, layer)
        self.decay = torch.nn.Parameter(torch.full((layer.dim,), 2.0))

    def forward(self, x, ctx):
        state = None if ctx.cache is None else ctx.cache["state"]
        return self.out(self.gate(x).sigmoid() * recurrent_scan(self.into(x), self.decay.sigmoid(), ctx, state))

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"state": torch.zeros(batch, len(self.decay), device=device, dtype=dtype)}


recipe = {"base": "standard", "mixer": FalseRollback, "about": "Specimen - a state that cannot be rolled back."}
