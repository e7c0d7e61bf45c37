"""The worker block: layers update every k-th token (a worker) only; later tokens attend to the others unchanged."""

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
from litmus.nn.worker.streams import QuerySet, all_tokens


class WorkerConfig(BlockConfig):
    """interval: k, one token in k is a worker; by default the last of each k.

    phase: "random" samples the workers' position in the interval for each row in training (objective kind "worker");
    "fixed" does not. conv_width: kernel width of the convolution. type_embedding: add a learned vector to workers.
    others: non-worker tokens keep their embedding, as published ("keep"), or each layer adds to them their h, the
    normed output of the convolution, scaled by a learned vector ("residual").
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
                    f"a worker block cannot be combined with a {other.kind!r} block, as a token is a worker in all "
                    "layers or in none; valid: block {kind: worker} in every layer"
                )
            if other.interval != self.interval:
                raise BadInput(
                    f"worker blocks have intervals {self.interval} and {other.interval}; "
                    "one interval in all layers is valid"
                )


class WorkerBlock(Mixer):
    """h = norm(conv(x)); keys and values of all tokens from h; attention and feedforward for workers only.

    There are two streams. The memory (B, T, dim) is what later tokens attend to: workers as updated by the layers,
    other tokens unchanged. The queries (B, N, dim) are the tokens whose predictions are wanted; each is computed as a
    worker that attends to the memory before it and to itself, whether it is a worker in the memory or not. The
    prediction after token t thus equals that of the layers applied to tokens 0 .. t with t as a worker.
    (WorkerTransformer, here with the same definition for every position; docs/sparse.md.)

    The first layer maps the embeddings (B, T, dim) to memory and queries, concatenated to (B, T + N, dim), which is
    what the layers pass on; the last returns the queries.
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
        if callable(getattr(self.feedforward, "new_cache", None)):
            found = type(self.feedforward).__name__
            raise BadInput(
                f"the worker block's feedforward {found} has a cache; only one without a cache is valid in it"
            )
        self.dropout = Dropout(layer.dropout)
        updates = config.others == "residual" and not self.last  # the memory after the last layer is not used
        self.share = nn.Parameter(torch.zeros(layer.dim)) if updates else None

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        query_set, length = self._query_set(ctx), ctx.positions.shape[1]
        if x.shape[1] == length:  # the embeddings; or no row has a query, and then starting again changes nothing
            x = self._start(x, query_set)
        memory, queries = x[:, :length], x[:, length:]
        before = self.conv.before(memory, ctx, ctx.cache["before"] if ctx.cache else None)
        both_h = self.mixer_norm(self.conv.here(x) + torch.cat((before, query_set.of(before)), dim=1))
        h, query_h = both_h[:, :length], both_h[:, length:]
        y = self._attend(both_h, query_set, ctx)
        queries = queries + self.dropout(self.mixer.out_proj(y, query_h, query_set.ctx))
        queries = queries + self.dropout(self.feedforward(self.feedforward_norm(queries), query_set.ctx))
        if self.last:
            return queries
        return torch.cat((self._updated_memory(memory, h, queries, query_set), queries), dim=1)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        buffers = self.mixer.new_cache(batch, capacity, device=device, dtype=dtype)
        history = torch.zeros(batch, self.conv.lags, self.conv.bias.numel(), device=device, dtype=dtype)
        return {**buffers, "before": history}

    def kv_elements(self, capacity: int) -> int:
        return self.mixer.kv_elements(capacity) + self.conv.lags * self.conv.bias.numel()

    def _query_set(self, ctx: ForwardContext) -> QuerySet:
        """The queries that the objective wants, or all tokens."""
        if ctx.queries is not None:
            return ctx.queries
        return ctx.memo(("queries", self.interval), lambda: all_tokens(ctx, workers(ctx, self.interval)))

    def _start(self, x: Tensor, query_set: QuerySet) -> Tensor:
        """Both streams (B, T + N, dim) from the embeddings (B, T, dim)."""
        marked = x if self.worker_type is None else x + self.worker_type
        return torch.cat((torch.where(query_set.workers[..., None], marked, x), query_set.of(marked)), dim=1)

    def _attend(self, both_h: Tensor, query_set: QuerySet, ctx: ForwardContext) -> Tensor:
        """Attention outputs (B, N, H, D) of the queries over the memory, for h (B, T + N, dim) of both."""
        if ctx.cache is not None and ctx.positions.shape[1] == 1:
            return self._attend_single_token(both_h, ctx)
        h, query_h = both_h.tensor_split([ctx.positions.shape[1]], dim=1)
        k, v = self._keys_values(h, ctx)
        if ctx.cache is not None:
            k, v = update_kv(ctx.cache["k"], k, ctx), update_kv(ctx.cache["v"], v, ctx)
        outputs = []
        sizes = [group.ctx.positions.shape[1] for group in query_set.groups]
        for group, group_h in zip(query_set.groups, query_h.split(sizes, dim=1), strict=True):
            q, own = self._queries(group_h, group.ctx), None
            if not group.in_memory:
                own = self._keys_values(group_h, group.ctx)
            query_scale = self.mixer.ssmax(group.ctx) if self.mixer.ssmax else None
            if ctx.observed is not None and own is not None:
                measured = observed_queries(q.shape[1], q.device)
                mask = visible(group.queries.subset(measured), k.shape[1], ctx, own=True)
                scale = None if query_scale is None else query_scale[:, measured]
                observe_attention(q[:, measured], torch.cat((k, own[0][:, measured]), dim=1), mask, scale, ctx)
            outputs.append(attend_at(group.queries, q, k, v, ctx, own=own, query_scale=query_scale))
        return torch.cat(outputs, dim=1)

    def _attend_single_token(self, both_h: Tensor, ctx: ForwardContext) -> Tensor:
        """`_attend` for decoding one token per row, h (B, 2, dim), without a copy of the cache.

        Its slot has the key of the query during attention, and that of the memory afterwards. One matmul computes both,
        because reading the weights is what limits decoding.
        """
        assert ctx.cache is not None
        q, k, v = self.mixer.qkv_proj(both_h, ctx)
        query_scale = self.mixer.ssmax(ctx) if self.mixer.ssmax else None
        stored_k, stored_v = update_kv(ctx.cache["k"], k[:, 1:], ctx), update_kv(ctx.cache["v"], v[:, 1:], ctx)
        y = attend(q[:, 1:], stored_k, stored_v, ctx.attention_mask(), query_scale)
        update_kv(ctx.cache["k"], k[:, :1], ctx)
        update_kv(ctx.cache["v"], v[:, :1], ctx)
        return y

    def _queries(self, h: Tensor, ctx: ForwardContext) -> Tensor:
        """Queries (B, N, H, D) of h (B, N, dim)."""
        return self._norm_and_rotate(self._heads(h, 0, self.mixer.heads), self.mixer.q_norm, ctx)

    def _keys_values(self, h: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor]:
        """Keys and values (B, N, G, D) of h (B, N, dim)."""
        k, v = self._heads(h, self.mixer.heads, None).chunk(2, dim=2)
        return self._norm_and_rotate(k, self.mixer.k_norm, ctx), v

    def _heads(self, h: Tensor, first: int, end: int | None) -> Tensor:
        """Heads `first` to `end` - 1 of the projection of h to queries, keys and values."""
        qkv, width = self.mixer.qkv, self.mixer.head_dim
        part = slice(first * width, None if end is None else end * width)
        bias = None if qkv.bias is None else qkv.bias[part]
        return F.linear(h, qkv.weight[part], bias).unflatten(-1, (-1, width))

    def _norm_and_rotate(self, x: Tensor, norm: nn.Module | None, ctx: ForwardContext) -> Tensor:
        x = x if norm is None else norm(x)
        return x if self.mixer.rotation is None else self.mixer.rotation(x, ctx)

    def _updated_memory(self, memory: Tensor, h: Tensor, queries: Tensor, query_set: QuerySet) -> Tensor:
        """The memory after this layer: workers from queries (B, N, dim), others unchanged or with a residual update."""
        non_workers = memory if self.share is None else memory + self.share * h
        group = query_set.groups[0]
        if group.index is None:
            return torch.where(query_set.workers[..., None], queries, non_workers)
        updated = queries[:, : group.index.shape[1]].to(non_workers.dtype)
        kept = group.of(non_workers)
        assert group.real is not None
        updated = torch.where(group.real[..., None], updated, kept)  # rows with fewer workers stay unchanged
        return non_workers.scatter(1, group.index[..., None].expand_as(updated), updated)


def workers(ctx: ForwardContext, interval: int, phase: Tensor | None = None) -> Tensor:
    """Mask (B, T) of the workers of the memory: tokens at `phase` (B, 1) of each interval; None: the last."""
    chosen = ctx.positions % interval == (interval - 1 if phase is None else phase)
    return chosen if ctx.padding_mask is None else chosen & ctx.padding_mask
