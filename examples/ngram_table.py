"""Token ids in the context: a table of hashed n-grams, as in BLT (Pagnoni et al. 2024, arXiv 2412.09871)."""

import torch
from torch import nn

from litmus.nn import Swiglu, linear, token_shifts


class NgramTable(Swiglu):
    """SwiGLU plus sigmoid(W x) · table[hash of the last `order` token ids]."""

    def __init__(self, config, layer, order: int = 2, slots: int = 4093):
        super().__init__(config, layer)
        self.order, self.gate = order, linear(layer.dim, layer.dim)
        self.table = nn.Embedding(slots, layer.dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, x, ctx):
        key = ctx.token_ids
        for earlier in token_shifts(ctx.token_ids, self.order - 1, ctx, ctx.cache["ids"] if ctx.cache else None):
            key = (key * 1_000_003 + earlier) % self.table.num_embeddings
        return super().forward(x, ctx) + self.gate(x).sigmoid() * self.table(key)

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"ids": torch.zeros(batch, self.order - 1, dtype=torch.long, device=device)}


recipe = {"base": "standard", "feedforward": NgramTable, "about": "A learned vector per hashed pair of tokens."}
