"""Multi-head attention with grouped key-value heads, optional QK-norm, biases, Scalable-Softmax and output gate."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.attention.attend import attend, attend_by_scores, attention_scores
from litmus.nn.attention.gates import Gate, GateConfig
from litmus.nn.attention.ssmax import SSMax, SSMaxConfig
from litmus.nn.attention.stats import observe_attention
from litmus.nn.core.cache import heads_buffer, update_kv
from litmus.nn.core.forward_context import AttentionMask, Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer, MixerConfig
from litmus.nn.layers.linear import linear, residual_linear
from litmus.nn.layers.norms import RMSNorm


class AttentionBaseConfig(MixerConfig):
    """What mixers with query, key and value heads share.

    `heads` defaults to the recipe's, `kv_heads` to `heads`, `head_dim` to dim / heads.
    """

    size_keys: ClassVar[tuple[str, ...]] = ("heads", "kv_heads", "head_dim")
    heads: int | None = Field(None, ge=1)
    kv_heads: int | None = Field(None, ge=1)
    head_dim: int | None = Field(None, ge=1)
    bias: bool = False
    qk_norm: bool = False
    ssmax: SSMaxConfig | None = None
    gate: GateConfig | None = None


class AttentionConfig(AttentionBaseConfig):
    kind: Literal["attention"] = "attention"

    def build(self, layer: LayerContext) -> Attention:
        return Attention(self, layer)


class AttentionBase(Mixer):
    """From x to queries, keys and values, and from what the heads have read back to x; mixers read in between."""

    def __init__(self, config: AttentionBaseConfig, layer: LayerContext) -> None:
        super().__init__()
        self.heads = config.heads or layer.heads
        self.kv_heads = config.kv_heads or self.heads
        if config.head_dim is None and layer.dim % self.heads:
            raise BadInput(f"heads = {self.heads} does not divide dim = {layer.dim}; valid: {divisors(layer.dim)}")
        if self.heads % self.kv_heads:
            raise BadInput(
                f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}; valid: {divisors(self.heads)}"
            )
        self.head_dim = config.head_dim or layer.dim // self.heads
        self.rotation = layer.rotation(self.head_dim)
        self.qkv = linear(layer.dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=config.bias)
        self.out = residual_linear(self.heads * self.head_dim, layer, bias=config.bias)
        self.q_norm = RMSNorm(self.head_dim, layer.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, layer.norm_eps) if config.qk_norm else None
        self.ssmax = SSMax(config.ssmax, self.heads) if config.ssmax else None
        self.output_gate = Gate(config.gate, self.heads, self.head_dim, layer) if config.gate else None

    def qkv_proj(self, x: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, D), keys and values (B, T, G, D) of x (B, T, dim); queries and keys normed and rotated."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2G, D)
        if self.q_norm is None and self.rotation is not None:
            qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
            q, k = self.rotation(qk, ctx).split((self.heads, self.kv_heads), dim=2)
        else:
            q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            if self.rotation is not None:
                q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        return q, k, v

    def out_proj(self, y: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        """The heads' outputs y (B, T, H, D), gated by x, as a write (B, T, dim) into the residual stream."""
        if self.output_gate is not None:
            y = self.output_gate(y, x, ctx)
        return self.out(y.flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, capacity, self.kv_heads, self.head_dim)
        return {name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.kv_heads * self.head_dim * capacity


class Attention(AttentionBase):
    """softmax(q·k / sqrt(D)) v per head over the token itself and those before it (Vaswani et al. 2017)."""

    supports_rollback = True

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        mask = self.attention_mask(ctx)
        query_scale = self.query_scale(ctx, mask)
        if type(self).scores is not Attention.scores:
            q = q if query_scale is None else q * query_scale[..., None]
            return self.out_proj(attend_by_scores(self.scores(q, k, ctx), v, mask), x, ctx)
        observe_attention(q, k, mask, query_scale, ctx)
        return self.out_proj(attend(q, k, v, mask, query_scale), x, ctx)

    def attention_mask(self, ctx: ForwardContext) -> AttentionMask:
        """Which keys each query reads, a bool mask (B or 1, 1, T, S); every query must have one."""
        return ctx.attention_mask()

    def scores(self, q: Tensor, k: Tensor, ctx: ForwardContext) -> Tensor:
        """The scores (B, H, T, S) of queries (B, T, H, D) and keys (B, S, G, D), before mask and softmax.

        A subclass that overrides this computes attention by its definition, with T x S scores in memory.
        """
        return attention_scores(q, k)

    def query_scale(self, ctx: ForwardContext, mask: AttentionMask) -> Tensor | None:
        """The factor of Scalable-Softmax on each query's scores, if any; n counts the keys that `mask` shows."""
        if self.ssmax is None:
            return None
        own = type(self).attention_mask is not Attention.attention_mask and isinstance(mask, Tensor)
        return self.ssmax(ctx, keys=mask.sum(-1)[:, 0] if own else None)  # type: ignore[union-attr]


def divisors(number: int) -> str:
    """The divisors of `number`, for an error sentence."""
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
