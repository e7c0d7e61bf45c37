"""F8 - Decoding at offsets that training never had.

What was published. WorkerTransformer trains workers at every k-th position, always the same phase. To generate, it
makes the last token a temporary worker, wherever that token stands.

Why it looked fine. The loss at the workers is good, and every prefix has a prediction.

What it does to results. In training a query always stood k tokens behind the worker before it. In decoding it stands
1, 2, ... or k behind, and only the last was ever trained. Measured on the project's code (k = 4): 1.88, 1.77, 1.67
and 1.58 nats by offset, 1.72 over all tokens, where 1.56 is reported and the plain model has 1.45.

This file states the model honestly (logits[t] is the prediction with t as a worker that reads the workers before it;
cached decoding equals it; every token is scored) and keeps the fault alone: only one phase receives a loss. The sound
version also trains queries at the other offsets: drop the objective below, or draw its phase anew for each row.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from litmus.nn import (
    Batch,
    BlockConfig,
    Buffers,
    ForwardContext,
    LayerContext,
    Loss,
    Mixer,
    Objective,
    ObjectiveConfig,
    linear,
    residual_linear,
    update_kv,
)


class WorkerConfig(BlockConfig):
    kind: Literal["f8_worker"] = "f8_worker"
    every: int = 4

    def build(self, layer: LayerContext) -> Mixer:
        return WorkerBlock(self, layer)  # the attention is part of the block; the recipe's mixer is not used


class WorkerBlock(Mixer):
    """Two streams: memory, where only every k-th token is updated, and queries, where every token is a worker.

    A query reads the keys and values of the memory before it, and its own. At the workers the two streams agree.
    """

    def __init__(self, config: WorkerConfig, layer: LayerContext) -> None:
        super().__init__()
        self.every = config.every
        self.first = layer.index == 0
        self.heads, self.head_dim = layer.heads, layer.dim // layer.heads
        self.rotation = layer.rotation(self.head_dim)
        self.norm = layer.norm()
        self.qkv = linear(layer.dim, 3 * layer.dim)
        self.out = residual_linear(layer.dim, layer)
        self.feedforward_norm = layer.norm()
        self.feedforward = layer.new_feedforward()

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        memory = x if self.first else ctx.memo_store["worker memory"]
        _, k, v = self.heads_of(memory, ctx)
        q, k_own, v_own = self.heads_of(x, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        x = x + self.out(read(q, k, v, k_own, v_own, before(ctx, k.shape[1])).flatten(-2))
        x = x + self.feedforward(self.feedforward_norm(x), ctx)
        worker = ctx.positions % self.every == self.every - 1
        ctx.memo_store["worker memory"] = torch.where(worker[..., None], x, memory)
        return x

    def heads_of(self, x: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)
        if self.rotation is not None:
            q, k = self.rotation(q, ctx), self.rotation(k, ctx)
        return q, k, v

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def kv_elements(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


def before(ctx: ForwardContext, keys: int) -> Tensor:
    """Which of the `keys` stored tokens each query may read (B or 1, 1, T, keys): those before it, itself excluded."""
    queries, device = ctx.positions.shape[1], ctx.positions.device
    visible = ctx.attention_mask()
    if isinstance(visible, str):
        visible = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    index = torch.arange(keys, device=device)
    own = index[:queries] if ctx.cache is None else ctx.positions
    return visible & (index != own[..., None]).view(-1, 1, queries, keys)


def read(q: Tensor, k: Tensor, v: Tensor, k_own: Tensor, v_own: Tensor, visible: Tensor) -> Tensor:
    """Attention of q (B, T, H, D) over the visible k, v (B, S, H, D) and each query's own k and v; (B, T, H, D)."""
    scale = q.shape[-1] ** -0.5
    stored = (torch.einsum("bthd,bshd->bhts", q, k) * scale).masked_fill(~visible, -torch.inf)
    own = (torch.einsum("bthd,bthd->bht", q, k_own) * scale)[..., None]
    weights = torch.cat((stored, own), dim=-1).softmax(-1).to(v.dtype)
    return torch.einsum("bhts,bshd->bthd", weights[..., :-1], v) + weights[..., -1].transpose(1, 2)[..., None] * v_own


class OnePhaseConfig(ObjectiveConfig):
    kind: Literal["one_phase"] = "one_phase"
    every: int = 4

    def build(self, layer: LayerContext) -> Objective:
        return OnePhase(self)


class OnePhase(Objective):
    """Trains at the memory's workers only; scores every token, as it should."""

    def __init__(self, config: OnePhaseConfig) -> None:
        super().__init__()
        self.every = config.every

    def forward(self, model, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        index = torch.arange(batch.targets.shape[1], device=batch.targets.device)
        one_phase = batch.targets.masked_fill(index % self.every != self.every - 1, -100)  # the fault
        return super().forward(model, replace(batch, targets=one_phase), label_smoothing)


recipe = {
    "base": "standard",
    "about": "Specimen F8 - workers trained at one phase, used at all.",
    "block": {"kind": "f8_worker"},
    "objective": {"kind": "one_phase"},
}
