"""Token ids in the context: each layer adds a learned vector per token to its values."""

from torch import nn

from litmus.nn import Attention


class ValueEmbeddings(Attention):
    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.table = nn.Embedding(layer.vocab_size, self.kv_heads * self.head_dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def qkv_proj(self, x, ctx):
        q, k, v = super().qkv_proj(x, ctx)
        return q, k, v + self.table(ctx.token_ids).view_as(v)


recipe = {"base": "standard", "mixer": ValueEmbeddings, "about": "A learned vector per token in the values."}
