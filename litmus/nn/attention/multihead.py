"""Multi-head attention with grouped-query heads and optional biases, QK-norm, Scalable-Softmax and output gate."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.attention import flex
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
    """Options of mixers with query, key and value heads.

    heads: query heads H (default: the recipe's). kv_heads: key-value heads G (default: H). head_dim: width D of a head
    (default: dim / H). bias: of the linear maps. qk_norm: RMSNorm of queries and keys, per head. ssmax:
    Scalable-Softmax. gate: gate on the output.
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
    """Projections to queries, keys and values and from the heads' outputs back; subclasses attend in between."""

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
        """Project x (B, T, dim) to queries (B, T, H, D), keys and values (B, T, G, D); apply QK-norm and RoPE."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2G, D)
        if self.q_norm is None and self.rotation is not None:
            qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)  # one rotation for both is faster
            q, k = self.rotation(qk, ctx).split((self.heads, self.kv_heads), dim=2)
        else:
            q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            if self.rotation is not None:
                q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        return q, k, v

    def out_proj(self, y: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Project the heads' outputs y (B, T, H, D), gated by x, to (B, T, dim) of the residual stream."""
        if self.output_gate is not None:
            y = self.output_gate(y, x, ctx)
        return self.out(y.flatten(-2))

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, capacity, self.kv_heads, self.head_dim)
        return {name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.kv_heads * self.head_dim * capacity


class Attention(AttentionBase):
    """Causal attention, softmax(q·k / sqrt(D)) v per head (Vaswani et al. 2017).

    A subclass can override `attention_mask`, `scores`, `qkv_proj` or `out_proj`.
    """

    supports_rollback = True

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, k, v = self.qkv_proj(x, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        if self._is_plain and flex.serves_documents(q, v.shape[-1], ctx):
            query_scale = self.ssmax(ctx) if self.ssmax else None
            return self.out_proj(flex.attend_documents(q, k, v, ctx, query_scale), x, ctx)
        mask = self.attention_mask(ctx)
        query_scale = self.query_scale(ctx, mask)
        if type(self).scores is not Attention.scores:
            q = q if query_scale is None else q * query_scale[..., None]
            return self.out_proj(attend_by_scores(self.scores(q, k, ctx), v, mask), x, ctx)
        observe_attention(q, k, mask, query_scale, ctx)
        return self.out_proj(attend(q, k, v, mask, query_scale), x, ctx)

    @property
    def _is_plain(self) -> bool:
        """Whether no subclass has changed mask, scores or scale."""
        return all(getattr(type(self), n) is getattr(Attention, n) for n in ("attention_mask", "scores", "query_scale"))

    def attention_mask(self, ctx: ForwardContext) -> AttentionMask:
        """Which keys each query attends to, as a bool mask (B or 1, 1, T, S); each query needs at least one."""
        return ctx.attention_mask()

    def scores(self, q: Tensor, k: Tensor, ctx: ForwardContext) -> Tensor:
        """Attention scores (B, H, T, S) of queries (B, T, H, D) and keys (B, S, G, D), before mask and softmax.

        If a subclass overrides this, attention is not fused: the T x S scores are computed in memory.
        """
        return attention_scores(q, k)

    def query_scale(self, ctx: ForwardContext, mask: AttentionMask) -> Tensor | None:
        """Factor of Scalable-Softmax on each query's scores, or None; n is the number of keys in `mask`."""
        if self.ssmax is None:
            return None
        overridden = type(self).attention_mask is not Attention.attention_mask and isinstance(mask, Tensor)
        return self.ssmax(ctx, keys=mask.sum(-1)[:, 0] if overridden else None)  # type: ignore[union-attr]


def divisors(number: int) -> str:
    """The divisors of `number`, for an error message."""
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
