"""One thing overridden: which keys a query reads. Near ones, and one in `stride` of the others (arXiv 1904.10509)."""

from litmus.nn import Attention


class Strided(Attention):
    def __init__(self, config, layer, window: int = 16, stride: int = 8):
        super().__init__(config, layer)
        self.window, self.stride = window, stride

    def attention_mask(self, ctx):  # (B or 1, 1, T, S)
        far = ctx.causal_mask() & (ctx.key_positions[:, None, None] % self.stride == 0)
        return ctx.causal_mask(self.window) | far


recipe = {"base": "standard", "mixer": Strided, "about": "Attention to near tokens and to every eighth of the others."}
