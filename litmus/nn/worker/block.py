"""The worker block: only every k-th token is updated and read as such later; the others stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.attention.attend import attend
from litmus.nn.attention.multihead import Attention
from litmus.nn.attention.spaced import attend_at, visible
from litmus.nn.attention.stats import observe_attention, observed_queries
from litmus.nn.core.cache import update_kv
from litmus.nn.core.forward_context import Buffers, ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer
from litmus.nn.layers.blocks import BlockConfig
from litmus.nn.layers.causal_conv import CausalConv
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.linear import INIT_STD
from litmus.nn.worker.streams import QueryAuxLosses, QuerySet, TwoStreamState, all_tokens, rows

STREAMS = "worker streams"


class WorkerConfig(BlockConfig):
    """`interval` is k: one token in k is a worker, the last of each k unless training draws another `phase`.

    phase: "random" draws the workers' place anew for each row in training (objective kind "worker"); "fixed" does not.
    others: tokens that are no workers keep their embedding, as published, or add a learned share of what the
    convolution makes of them ("residual").
    """

    kind: Literal["worker"] = "worker"
    interval: int = Field(4, ge=1)
    phase: Literal["random", "fixed"] = "random"
    conv_width: int = Field(3, ge=1)
    type_embedding: bool = True
    others: Literal["keep", "residual"] = "keep"

    def build(self, layer: LayerContext) -> WorkerBlock:
        return WorkerBlock(self, layer)

    def check_compatible(self, blocks: Sequence[BlockConfig]) -> None:
        for other in blocks:
            if not isinstance(other, WorkerConfig):
                raise BadInput(
                    f"a worker block stands in one model with a {other.kind!r} block, but a token is a worker in all "
                    "layers or in none; valid: block {kind: worker} in every layer"
                )
            if other.interval != self.interval:
                raise BadInput(
                    f"worker blocks of intervals {self.interval} and {other.interval} stand in one model; one interval "
                    "in all layers is valid"
                )


class WorkerBlock(Mixer):
    """h = norm(conv(x)); keys and values of all tokens from h; attention and feedforward for the workers alone.

    The memory holds what later tokens read: workers as the layers update them, other tokens as they were. A prediction
    after token t is made by t as a worker, which reads the memory before t and itself, whatever t is to the memory:
    what running the layers on tokens 0 .. t alone with t made a worker would give. (WorkerTransformer, here with
    one meaning for every position; docs/sparse.md.)
    """

    def __init__(self, config: WorkerConfig, layer: LayerContext) -> None:
        super().__init__()
        if config.interval > layer.context:
            raise BadInput(
                f"the worker interval is {config.interval} tokens and the context {layer.context}, so that no text has "
                f"a worker; valid: 1 to {layer.context}"
            )
        self.interval = config.interval
        self.last = layer.index == layer.depth - 1
        marked = config.type_embedding and layer.index == 0
        self.worker_type = nn.Parameter(INIT_STD * torch.randn(layer.dim)) if marked else None
        self.conv = CausalConv(layer.dim, config.conv_width)
        self.mixer_norm = layer.norm()
        self.mixer = layer.new_mixer()
        if type(self.mixer) is not Attention:
            found = type(self.mixer).__name__
            raise BadInput(f"the worker block's mixer is of class {found}; only 'attention' is valid in it")
        self.feedforward_norm = layer.norm()
        self.feedforward = layer.new_feedforward()
        self.dropout = Dropout(layer.dropout)
        moves = config.others == "residual" and not self.last  # nothing reads the memory after the last layer
        self.share = nn.Parameter(torch.zeros(layer.dim)) if moves else None

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        if STREAMS not in ctx.memo_store:
            x = self._open(x, ctx)
        streams: TwoStreamState = ctx.memo_store[STREAMS]
        memory, query_set = streams.memory, streams.query_set
        before = self.conv.before(memory, ctx, ctx.cache["before"] if ctx.cache else None)
        h = self.mixer_norm(self.conv.here(memory) + before)
        asked_h = self.mixer_norm(
            self.conv.here(x) + torch.cat([group.of(before) for group in query_set.groups], dim=1)
        )
        read = self._attend(h, asked_h, query_set, ctx)
        x = x + self.dropout(self.mixer.out_proj(read, asked_h, query_set.ctx))
        x = x + self.dropout(self.feedforward(self.feedforward_norm(x), query_set.ctx))
        if not self.last:
            streams.memory = self._remembered(memory, h, x, query_set)
        return x

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        buffers = self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)
        last = torch.zeros(batch, self.conv.lags, self.conv.bias.numel(), device=device, dtype=dtype)
        return {**buffers, "before": last}

    def kv_elements(self, capacity: int) -> int:
        return self.mixer.kv_elements(capacity) + self.conv.lags * self.conv.bias.numel()

    def _open(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Begin both streams with the vectors of all tokens (B, T, dim); returns those of the tokens asked."""
        terms = ctx.aux_losses
        if isinstance(terms, QueryAuxLosses) and terms.query_set is not None:
            query_set = terms.query_set
        else:
            query_set = all_tokens(ctx, workers(ctx, self.interval))
        marked = x if self.worker_type is None else x + self.worker_type
        ctx.memo_store[STREAMS] = TwoStreamState(torch.where(query_set.workers[..., None], marked, x), query_set)
        return torch.cat([group.of(marked) for group in query_set.groups], dim=1)

    def _attend(self, h: Tensor, asked_h: Tensor, query_set: QuerySet, ctx: ForwardContext) -> Tensor:
        """What the heads of the tokens asked read (B, N, H, D), from h (B, T, dim) of the memory and their own."""
        if ctx.cache is not None and h.shape[1] == 1:
            return self._attend_alone(h, asked_h, ctx)
        k, v = self._keys_values(h, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        read = []
        sizes = [group.ctx.positions.shape[1] for group in query_set.groups]
        for group, own_h in zip(query_set.groups, asked_h.split(sizes, dim=1), strict=True):
            q, own = self._queries(own_h, group.ctx), None
            if not group.in_memory:
                own = self._keys_values(own_h, group.ctx)
            query_scale = self.mixer.ssmax(group.ctx) if self.mixer.ssmax else None
            if ctx.observed is not None and own is not None:
                some = observed_queries(q.shape[1], q.device)
                mask = visible(group.places.some(some), k.shape[1], ctx, own=True)
                scale = None if query_scale is None else query_scale[:, some]
                observe_attention(q[:, some], torch.cat((k, own[0][:, some]), dim=1), mask, scale, ctx)
            read.append(attend_at(group.places, q, k, v, ctx, own=own, query_scale=query_scale))
        return torch.cat(read, dim=1)

    def _attend_alone(self, h: Tensor, own_h: Tensor, ctx: ForwardContext) -> Tensor:
        """The same for one token per row that is decoded, without a copy of the cache.

        Its own key stands in its slot while it reads, and what the memory keeps of it from then on. One product makes
        both, since decoding waits for weights.
        """
        assert ctx.cache is not None
        q, k, v = self.mixer.qkv_proj(torch.cat((h, own_h), dim=1), ctx)
        query_scale = self.mixer.ssmax(ctx) if self.mixer.ssmax else None
        stored_k, stored_v = update_kv(ctx.cache["k"], k[:, 1:], ctx), update_kv(ctx.cache["v"], v[:, 1:], ctx)
        read = attend(q[:, 1:], stored_k, stored_v, ctx.attention_mask(), query_scale)
        update_kv(ctx.cache["k"], k[:, :1], ctx)
        update_kv(ctx.cache["v"], v[:, :1], ctx)
        return read

    def _queries(self, h: Tensor, ctx: ForwardContext) -> Tensor:
        """Queries (B, N, H, D) of h (B, N, dim)."""
        return self._turned(self._heads(h, 0, self.mixer.heads), self.mixer.q_norm, ctx)

    def _keys_values(self, h: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor]:
        """Keys and values (B, N, G, D) of h (B, N, dim)."""
        k, v = self._heads(h, self.mixer.heads, None).chunk(2, dim=2)
        return self._turned(k, self.mixer.k_norm, ctx), v

    def _heads(self, h: Tensor, first: int, end: int | None) -> Tensor:
        """Heads `first` up to `end` of what the attention's one map makes of h."""
        qkv, width = self.mixer.qkv, self.mixer.head_dim
        if type(qkv) is not nn.Linear:  # packed or rounded for decoding: it can be had as a whole only
            return qkv(h).unflatten(-1, (-1, width))[:, :, first:end]
        part = slice(first * width, None if end is None else end * width)
        bias = None if qkv.bias is None else qkv.bias[part]
        return F.linear(h, qkv.weight[part], bias).unflatten(-1, (-1, width))

    def _turned(self, x: Tensor, norm: nn.Module | None, ctx: ForwardContext) -> Tensor:
        x = x if norm is None else norm(x)
        return x if self.mixer.rotation is None else self.mixer.rotation(x, ctx)

    def _remembered(self, memory: Tensor, h: Tensor, x: Tensor, query_set: QuerySet) -> Tensor:
        """The memory after this layer: workers as x (B, N, dim) has them, the others as they were, or nearly."""
        non_workers = memory if self.share is None else memory + self.share * h
        group = query_set.groups[0]
        if group.index is None:
            return torch.where(query_set.workers[..., None], x, non_workers)
        updated = x[:, : group.index.shape[1]].to(non_workers.dtype)
        kept = rows(non_workers, group.index)
        assert group.real is not None
        updated = torch.where(group.real[..., None], updated, kept)  # a row with fewer workers writes back what it has
        return non_workers.scatter(1, group.index[..., None].expand_as(updated), updated)


def workers(ctx: ForwardContext, interval: int, phase: Tensor | None = None) -> Tensor:
    """(B, T) which tokens are the memory's workers: those at `phase` (B, 1) of each interval, by default the last."""
    place = interval - 1 if phase is None else phase
    chosen = ctx.positions % interval == place
    return chosen if ctx.padding_mask is None else chosen & ctx.padding_mask
