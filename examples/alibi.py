"""One thing overridden: the scores. ALiBi takes away slope · distance (Press et al. 2021, arXiv 2108.12409)."""

import torch

from litmus.nn import Attention


class Alibi(Attention):
    def scores(self, q, k, ctx):  # (B, H, T, S)
        distance = ctx.positions[:, :, None] - ctx.key_positions[:, None]
        slopes = 2.0 ** (-8 * torch.arange(1, self.heads + 1, device=q.device) / self.heads)
        return super().scores(q, k, ctx) - slopes[:, None, None] * distance[:, None]


recipe = {
    "base": "standard",
    "mixer": Alibi,
    "positions": {"kind": "none"},
    "about": "Positions as a penalty on distant keys.",
}
