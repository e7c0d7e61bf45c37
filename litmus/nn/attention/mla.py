"""Multi-head latent attention (MLA): keys and values of all heads are projected from one cached latent per token."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.attention import flex, split_kv
from litmus.nn.attention.attend import attend
from litmus.nn.attention.gates import Gate, GateConfig
from litmus.nn.attention.multihead import divisors
from litmus.nn.attention.ssmax import SSMax, SSMaxConfig
from litmus.nn.attention.stats import observe_attention
from litmus.nn.core.cache import update_kv
from litmus.nn.core.forward_context import AttentionMask, Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer, MixerConfig
from litmus.nn.layers.linear import linear, residual_linear
from litmus.nn.layers.norms import RMSNorm

MAX_MATMUL_QUERIES = 64
"""Queries per row up to which absorbed attention on a CPU is faster by plain matmuls (bench/mla_decode.py)."""

LATENT_EPS = 1e-6
"""Epsilon of the norms over latents, as published; independent of the recipe's norm."""


class MlaConfig(MixerConfig):
    """Default widths have the proportions of DeepSeek-V2-Lite.

    kv_rank: latent (dim / 4). nope_dim, value_dim: unrotated part of a key, and value, of a head (dim / heads).
    rope_dim: rotated part of a key (half of that). latent_query: project queries from a latent of q_rank (3 · kv_rank).
    absorb: "on" attends to the latents themselves, "off" to keys and values expanded from them, "auto" chooses by cost.
    """

    size_keys: ClassVar[tuple[str, ...]] = ("heads", "kv_rank", "q_rank", "nope_dim", "rope_dim", "value_dim")
    kind: Literal["mla"] = "mla"
    heads: int | None = Field(None, ge=1)
    kv_rank: int | None = Field(None, ge=1)
    latent_query: bool = False
    q_rank: int | None = Field(None, ge=1)
    nope_dim: int | None = Field(None, ge=1)
    rope_dim: int | None = Field(None, ge=0)
    value_dim: int | None = Field(None, ge=1)
    ssmax: SSMaxConfig | None = None
    gate: GateConfig | None = None
    absorb: Literal["auto", "on", "off"] = "auto"

    def build(self, layer: LayerContext) -> Mla:
        return Mla(self, layer)


class Mla(Mixer):
    """MLA of DeepSeek-V2 (arXiv 2405.04434, section 2.1).

    c = norm(W_DKV x), k_r = RoPE(W_KR x), both cached; per head i: k = [W_UK_i c ; k_r], v = W_UV_i c,
    q = [q_c ; RoPE(q_r)], and softmax(q·k / sqrt(nope + rope)) v.
    """

    supports_rollback = True
    dense_weights = ("kv_up",)  # `absorbed` multiplies by parts of it

    def __init__(self, config: MlaConfig, layer: LayerContext) -> None:
        super().__init__()
        self.heads = config.heads or layer.heads
        head = _head_width(config, self.heads, layer)
        self.nope = config.nope_dim or head
        self.value = config.value_dim or head
        self.rope = _rope_width(config, head, layer)
        self.rank = config.kv_rank or max(1, layer.dim // 4)
        self.absorb = config.absorb
        if config.q_rank and not config.latent_query:
            raise BadInput(f"q_rank = {config.q_rank} needs latent_query: true, which is false")
        self.rotation = layer.rotation(self.rope) if self.rope else None

        query = self.heads * (self.nope + self.rope)
        q_rank = config.q_rank or 3 * self.rank
        self.q_down = linear(layer.dim, q_rank) if config.latent_query else None
        self.q_norm = RMSNorm(q_rank, LATENT_EPS) if config.latent_query else None
        self.q_up = linear(q_rank if config.latent_query else layer.dim, query)
        self.kv_down = linear(layer.dim, self.rank + self.rope)
        self.kv_norm = RMSNorm(self.rank, LATENT_EPS)
        self.kv_up = linear(self.rank, self.heads * (self.nope + self.value))
        self.out = residual_linear(self.heads * self.value, layer)
        self.ssmax = SSMax(config.ssmax, self.heads) if config.ssmax else None
        self.output_gate = Gate(config.gate, self.heads, self.value, layer) if config.gate else None

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        q, latents = self.queries(x, ctx), self.latents(x, ctx)
        if ctx.cache is not None:
            latents = update_kv(ctx.cache["latents"], latents, ctx)
        latents = latents.to(q.dtype)
        query_scale = self.ssmax(ctx) if self.ssmax else None
        if not self._absorbs(ctx) and flex.serves_documents(q, self.value, ctx):
            y = flex.attend_documents(q, *self.expanded(latents), ctx, query_scale)
        else:
            y = self._attend(q, latents, query_scale, ctx)
        if self.output_gate is not None:
            y = self.output_gate(y, x, ctx)
        return self.out(y.flatten(-2))

    def _attend(self, q: Tensor, latents: Tensor, query_scale: Tensor | None, ctx: ForwardContext) -> Tensor:
        """Attention outputs (B, T, H, value), by keys and values or by the latents themselves."""
        attention_mask = ctx.attention_mask()
        if ctx.observed is not None:
            k, _ = self.expanded(latents)
            observe_attention(q, k, attention_mask, query_scale, ctx)
        if self._absorbs(ctx):
            return self.absorbed(q, latents, attention_mask, query_scale)
        return attend(q, *self.expanded(latents), attention_mask, query_scale)

    def queries(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Queries (B, T, H, nope + rope), whose second part is rotated."""
        if self.q_down is not None and self.q_norm is not None:
            x = self.q_norm(self.q_down(x))
        q = self.q_up(x).unflatten(-1, (self.heads, -1))
        if self.rotation is None:
            return q
        content, rotated = q.split((self.nope, self.rope), dim=-1)
        return torch.cat((content, self.rotation(rotated, ctx)), dim=-1)

    def latents(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """The cached vectors (B, T, rank + rope): normed latent, and the rotated key part that all heads share."""
        latent, rotated = self.kv_down(x).split((self.rank, self.rope), dim=-1)
        latent = self.kv_norm(latent)
        if self.rotation is None:
            return latent
        return torch.cat((latent, self.rotation(rotated[:, :, None], ctx)[:, :, 0]), dim=-1)

    def expanded(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, S, H, nope + rope) and values (B, S, H, value) from cached vectors (B, S, rank + rope)."""
        latent, rotated = latents.split((self.rank, self.rope), dim=-1)
        k, v = self.kv_up(latent).unflatten(-1, (self.heads, -1)).split((self.nope, self.value), dim=-1)
        return torch.cat((k, rotated[:, :, None].expand(-1, -1, self.heads, -1)), dim=-1), v

    def _absorbs(self, ctx: ForwardContext) -> bool:
        """Whether to attend to the latents themselves.

        Multiplications per head and cached token: expanding takes rank · (nope + value) for any number T of queries;
        attending to latents takes T · (2 · rank - nope - value) more than attending to keys and values.
        """
        if ctx.use_reference or self.absorb != "auto":
            return not ctx.use_reference and self.absorb == "on"
        if ctx.cache is None or ctx.start_pos == 0:
            return False
        width = self.nope + self.value
        return ctx.positions.shape[1] * (2 * self.rank - width) < self.rank * width

    def absorbed(self, q: Tensor, latents: Tensor, attention_mask: AttentionMask, query_scale: Tensor | None) -> Tensor:
        """The same function, reassociated: q_c · (W_UK c) = (W_UKᵀ q_c) · c, sum a (W_UV c) = W_UV sum a c.

        All heads then share the keys (B, S, rank + rope), whose first part is also the values.
        """
        up_k, up_v = self.kv_up.weight.view(self.heads, -1, self.rank).split((self.nope, self.value), dim=1)
        content, rotated = q.split((self.nope, self.rope), dim=-1)
        q = torch.cat((torch.einsum("bthn,hnr->bthr", content, up_k), rotated), dim=-1)
        if query_scale is not None:
            q = (q * query_scale[..., None]).to(q.dtype)
        y = attend_shared(q, latents, self.rank, attention_mask, (self.nope + self.rope) ** -0.5)
        return torch.einsum("bthr,hvr->bthv", y, up_v)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        return {"latents": torch.zeros(batch, capacity, self.rank + self.rope, device=device, dtype=dtype)}

    def kv_elements(self, capacity: int) -> int:
        return (self.rank + self.rope) * capacity


def attend_shared(q: Tensor, keys: Tensor, values: int, attention_mask: AttentionMask, scale: float) -> Tensor:
    """softmax(scale · q·k) k[:values] for q (B, T, H, D) and keys (B, S, D) shared by all heads; (B, T, H, values)."""
    batch, length, heads, width = q.shape
    if split_kv.serves(q):
        every = torch.full((batch,), keys.shape[1], device=q.device)
        visible = attention_mask.sum(-1).view(-1).expand(batch) if isinstance(attention_mask, Tensor) else every
        return split_kv.attend_split(q[:, 0], keys, values, visible, scale)[:, None]
    q = q.reshape(batch, length * heads, width)  # heads become queries, so that keys are read once
    mask = _mask(attention_mask, length, keys.shape[1], q.device)
    if mask is not None:
        mask = mask[:, :, None].expand(-1, -1, heads, -1).flatten(1, 2)  # (B or 1, T·H, S)
    if q.device.type == "cpu" and length <= MAX_MATMUL_QUERIES:
        # Faster than fused attention; and keys·q takes a fifth of the time of q·keys, which would copy the keys.
        scores = torch.matmul(keys, q.mT).mT.to(torch.promote_types(q.dtype, torch.float32)) * scale
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        y = torch.matmul(scores.softmax(-1).to(keys.dtype), keys)
    else:
        mask = None if mask is None else mask[:, None]
        y = F.scaled_dot_product_attention(q[:, None], keys[:, None], keys[:, None], mask, scale=scale)[:, 0]
    return y[..., :values].unflatten(1, (length, heads))


def _mask(attention_mask: AttentionMask, queries: int, keys: int, device: torch.device) -> Tensor | None:
    """The mask (B or 1, T, S), or None for all keys."""
    if isinstance(attention_mask, Tensor):
        return attention_mask[:, 0]
    if attention_mask == "all":
        return None
    return torch.ones(1, queries, keys, dtype=torch.bool, device=device).tril()


def _head_width(config: MlaConfig, heads: int, layer: LayerContext) -> int:
    """dim / heads, from which default widths are derived."""
    if layer.dim % heads and None in (config.nope_dim, config.value_dim, config.rope_dim):
        raise BadInput(
            f"heads = {heads} does not divide dim = {layer.dim}; valid: {divisors(layer.dim)}, "
            f"or give nope_dim, rope_dim and value_dim"
        )
    return max(1, layer.dim // heads)


def _rope_width(config: MlaConfig, head: int, layer: LayerContext) -> int:
    rotates = layer.rotation(2) is not None
    if config.rope_dim is None:
        return -(-head // 4) * 2 if rotates else 0
    if config.rope_dim and not rotates:
        raise BadInput(
            f"rope_dim = {config.rope_dim} needs positions that rotate, and the recipe's do not; "
            f"set rope_dim to 0, or positions to rope"
        )
    if config.rope_dim % 2:
        raise BadInput(f"rope_dim = {config.rope_dim} is odd, and RoPE rotates pairs of numbers; an even one is valid")
    return config.rope_dim
