"""A mixer with a state of its own: a decaying sum of all earlier tokens, in constant memory."""

import torch

from litmus.nn import Mixer, linear, recurrent_scan, residual_linear


class FadingMemory(Mixer):
    """m_t = a · m_{t-1} + W x_t, with one learned decay a for each channel; the output is gated by the token."""

    def __init__(self, layer, start: float = 0.9):
        super().__init__()
        self.into, self.gate = linear(layer.dim, layer.dim), linear(layer.dim, layer.dim)
        self.out = residual_linear(layer.dim, layer)
        self.decay = torch.nn.Parameter(torch.full((layer.dim,), start).logit())

    def forward(self, x, ctx):
        state = None if ctx.cache is None else ctx.cache["state"]
        memory = recurrent_scan(self.into(x), self.decay.sigmoid(), ctx, state)
        return self.out(torch.nn.functional.silu(self.gate(x)) * memory)

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"state": torch.zeros(batch, len(self.decay), device=device, dtype=dtype)}


recipe = {
    "base": "standard",
    "mixer": FadingMemory,
    "layers": [{"repeat": "rest"}, {"repeat": 1, "mixer": {"kind": "attention"}}],
    "about": "A decaying memory in all layers but the last, which has attention.",
}
