"""An embedding that reads earlier tokens: patches, as in MegaByte (Yu et al. 2023, arXiv 2305.07185)."""

import torch
from torch import nn

from litmus.nn import linear, token_shifts


class PatchEmbedding(nn.Embedding):
    """e(t) + W [e(p_1) .. e(p_P)], p the last patch of P tokens that ended before the patch of token t began."""

    def __init__(self, vocab_size, dim, patch: int = 4):
        super().__init__(vocab_size, dim)
        nn.init.normal_(self.weight, std=0.02)
        self.patch, self.map = patch, linear(patch * dim, dim)

    def forward(self, tokens, ctx):
        earlier = token_shifts(tokens, 2 * self.patch - 1, ctx, ctx.cache["ids"] if ctx.cache else None)
        distances = torch.arange(self.patch, 0, -1, device=tokens.device) + ctx.positions[..., None] % self.patch
        ids = torch.stack(earlier, -1).gather(-1, distances - 1)  # (B, T, P)
        whole = (ctx.positions >= self.patch)[..., None]
        return super().forward(tokens) + whole * self.map(super().forward(ids).flatten(-2))

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"ids": torch.zeros(batch, 2 * self.patch - 1, dtype=torch.long, device=device)}


recipe = {
    "base": "standard",
    "embedding": PatchEmbedding,
    "about": "Each token also gets the last whole patch of four.",
}
