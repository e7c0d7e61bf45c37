"""Keys and values handed from layer to layer: cross-layer attention (Brandon et al. 2024, arXiv 2405.12981)."""

from litmus.nn import Attention, attend, linear, update_kv


class SharedKV(Attention):
    """The first of every `share` layers computes keys and values; the others read them and cache nothing."""

    def __init__(self, config, layer, share: int = 2):
        super().__init__(config, layer)
        self.group, number = divmod(layer.index, share)
        self.owner = number == 0
        if not self.owner:
            self.qkv = linear(layer.dim, self.heads * self.head_dim)  # queries only
            self.kv_heads = 0

    def forward(self, x, ctx):
        q, k, v = self.qkv_proj(x, ctx)
        if self.owner and ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        k, v = ctx.memo(("keys and values", self.group), lambda: (k, v))  # what the owner stored
        return self.out_proj(attend(q, k, v, self.attention_mask(ctx)), x, ctx)

    def new_cache(self, batch, capacity, *, device, dtype):
        return super().new_cache(batch, capacity, device=device, dtype=dtype) if self.owner else {}


recipe = {"base": "standard", "mixer": SharedKV, "about": "Two layers in a row share one set of keys and values."}
