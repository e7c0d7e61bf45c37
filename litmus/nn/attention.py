"""Multi-head attention with grouped key-value heads, optional QK-norm, biases, Scalable-Softmax and output gate."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.attend import attend
from litmus.nn.caches import heads_buffer, write
from litmus.nn.gates import Gate, GateConfig
from litmus.nn.linear import linear, residual_linear
from litmus.nn.mixers import Mixer, MixerConfig
from litmus.nn.norms import RMSNorm
from litmus.nn.observing import observe_attention
from litmus.nn.parts import Site
from litmus.nn.ssmax import SSMax, SSMaxConfig
from litmus.nn.step import Buffers, Step


class HeadsConfig(MixerConfig):
    """What mixers with query, key and value heads share.

    `heads` defaults to the recipe's, `kv_heads` to `heads`, `head_dim` to dim / heads.
    """

    sized: ClassVar[tuple[str, ...]] = ("heads", "kv_heads", "head_dim")
    heads: int | None = Field(None, ge=1)
    kv_heads: int | None = Field(None, ge=1)
    head_dim: int | None = Field(None, ge=1)
    bias: bool = False
    qk_norm: bool = False
    ssmax: SSMaxConfig | None = None
    gate: GateConfig | None = None


class AttentionConfig(HeadsConfig):
    kind: Literal["attention"] = "attention"

    def build(self, site: Site) -> Attention:
        return Attention(self, site)


class Heads(Mixer):
    """From x to queries, keys and values, and from what the heads have read back to x; mixers read in between."""

    def __init__(self, config: HeadsConfig, site: Site) -> None:
        super().__init__()
        self.heads = config.heads or site.heads
        self.kv_heads = config.kv_heads or self.heads
        if config.head_dim is None and site.dim % self.heads:
            raise BadInput(f"heads = {self.heads} does not divide dim = {site.dim}; valid: {divisors(site.dim)}")
        if self.heads % self.kv_heads:
            raise BadInput(
                f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}; valid: {divisors(self.heads)}"
            )
        self.head_dim = config.head_dim or site.dim // self.heads
        self.rotation = site.positions.rotation(self.head_dim)
        self.qkv = linear(site.dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=config.bias)
        self.out = residual_linear(self.heads * self.head_dim, site, bias=config.bias)
        self.q_norm = RMSNorm(self.head_dim, site.norm.eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, site.norm.eps) if config.qk_norm else None
        self.ssmax = SSMax(config.ssmax, self.heads) if config.ssmax else None
        self.output_gate = Gate(config.gate, self.heads, self.head_dim, site) if config.gate else None

    def project(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, D), keys and values (B, T, G, D) of x (B, T, dim); queries and keys normed and rotated."""
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2G, D)
        if self.q_norm is None and self.rotation is not None:
            qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
            q, k = self.rotation(qk, step).split((self.heads, self.kv_heads), dim=2)
        else:
            q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
            if self.q_norm is not None and self.k_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
            if self.rotation is not None:
                q, k = self.rotation(q, step), self.rotation(k, step)
        return q, k, v

    def join(self, y: Tensor, x: Tensor, step: Step) -> Tensor:
        """The heads' outputs y (B, T, H, D), gated by x, as a write (B, T, dim) into the residual stream."""
        if self.output_gate is not None:
            y = self.output_gate(y, x, step)
        return self.out(y.flatten(-2))


class Attention(Heads):
    """softmax(q·k / sqrt(D)) v per head over the token itself and those before it (Vaswani et al. 2017)."""

    rewinds = True

    def forward(self, x: Tensor, step: Step) -> Tensor:
        q, k, v = self.project(x, step)
        factor = self.ssmax(step) if self.ssmax else None
        if step.cache is not None:
            k, v = write(step.cache["k"], k, step), write(step.cache["v"], v, step)
        visibility = step.visibility()
        observe_attention(q, k, visibility, factor, step)
        return self.join(attend(q, k, v, visibility, factor, fast=step.fast), x, step)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, capacity, self.kv_heads, self.head_dim)
        return {name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}

    def cached_numbers(self, capacity: int) -> int:
        return 2 * self.kv_heads * self.head_dim * capacity


def divisors(number: int) -> str:
    """The divisors of `number`, for an error sentence."""
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
