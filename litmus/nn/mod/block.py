"""Mixture of depths: some layers process only tokens selected by a router; the others skip the layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.core.forward_context import Buffers, ForwardContext, has_values, positions_within
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import Mixer
from litmus.nn.layers.blocks import BlockConfig, PreNormBlock
from litmus.nn.mod.routers import DepthRouter, ThresholdRouter, TopKRouter


class DepthConfig(BlockConfig):
    """In every `every`-th layer a router selects a fraction `capacity` of the tokens; other layers process all.

    selection: "threshold" selects each token independently of the others; "topk", as published, uses scores of future
    tokens in training. rate: update rate of the threshold. predictor_weight: weight of the loss of the predictor that
    replaces top-k in evaluation and decoding.
    """

    kind: Literal["mod"] = "mod"
    capacity: float = Field(0.125, gt=0, lt=1)
    every: int = Field(2, ge=1)
    selection: Literal["threshold", "topk"] = "threshold"
    rate: float = Field(0.5, gt=0, le=1)
    predictor_weight: float = Field(0.01, ge=0)

    def build(self, layer: LayerContext) -> Mixer:
        if self.every > layer.depth:
            raise BadInput(f"every = {self.every} routes none of {layer.depth} layers; at most depth is valid")
        if (layer.index + 1) % self.every:
            return PreNormBlock(layer)
        return DepthBlock(self, layer)


class DepthBlock(Mixer):
    """x + sigmoid(r) · (block(x) - x) for selected tokens, x for the rest (Raposo et al. 2024, arXiv 2404.02258).

    The inner block processes the selected tokens only: they attend to each other, and positions count them. The cache
    stores them contiguously, with their number per row in the buffer "chosen". Every token may be selected, so the
    buffers have a slot for each.
    """

    def __init__(self, config: DepthConfig, layer: LayerContext) -> None:
        super().__init__()
        self.capacity = config.capacity
        self.block = PreNormBlock(layer)
        self.router: DepthRouter = (
            ThresholdRouter(config.capacity, config.rate, layer)
            if config.selection == "threshold"
            else TopKRouter(config.capacity, config.predictor_weight, layer)
        )

    def forward(self, x: Tensor, ctx: ForwardContext) -> Tensor:
        chosen, weight = self.router(x, ctx)
        if ctx.observed is not None:
            ctx.observed.setdefault("processed_share", []).append(chosen.float().mean())
        inner = self._inner_context(chosen, ctx)
        if ctx.cache is not None:
            ctx.cache["chosen"] += chosen.sum(1, keepdim=True)
        if ctx.use_reference:
            y = self.block(x, inner)
            return torch.where(chosen[..., None], x + weight[..., None] * (y - x), x)
        selected = self._indices(chosen, ctx)
        if not selected.shape[1]:
            return x
        inputs = x.take_along_dim(selected[..., None], 1)
        y = self.block(inputs, gather_context(inner, selected))
        change = chosen.gather(1, selected)[..., None] * weight.gather(1, selected)[..., None] * (y - inputs)
        return x.scatter_add(1, selected[..., None].expand_as(change), change.to(x.dtype))

    def _inner_context(self, chosen: Tensor, ctx: ForwardContext) -> ForwardContext:
        """The context in which all but the chosen tokens are padding."""
        index = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
        positions, cache = positions_within(ctx.document_ids, chosen, index), ctx.cache
        if cache is not None:
            positions = positions + cache["chosen"]
            cache = {name: buffer for name, buffer in cache.items() if name != "chosen"}
        # Masks of the memo store and statistics of other layers are about all tokens, so they are not shared.
        return replace(
            ctx, positions=positions, start_pos=None, padding_mask=chosen, cache=cache, memo_store={}, observed=None
        )

    def _indices(self, chosen: Tensor, ctx: ForwardContext) -> Tensor:
        """(B, M) indices of the chosen tokens of each row in order, then of others, up to the maximum M over rows."""
        if has_values(chosen):
            most = int(chosen.sum(1).max())
        else:
            most = round(self.capacity * chosen.shape[1])
        # In training every weight needs a gradient, even if it is 0, and every layer has to add its auxiliary losses.
        least = 1 if torch.is_grad_enabled() or ctx.aux_losses is not None else 0
        return chosen.long().argsort(dim=1, descending=True, stable=True)[:, : max(least, most)]

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        counts = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return {**self.block.new_cache(batch, capacity, device=device, dtype=dtype), "chosen": counts}

    def kv_elements(self, capacity: int) -> int:
        return self.block.kv_elements(capacity) + 1


def gather_context(ctx: ForwardContext, index: Tensor) -> ForwardContext:
    """The context of the tokens at index (B, M) only."""
    assert ctx.padding_mask is not None
    losses = ctx.aux_losses
    return replace(
        ctx,
        positions=ctx.positions.gather(1, index),
        padding_mask=ctx.padding_mask.gather(1, index),
        document_ids=None if ctx.document_ids is None else ctx.document_ids.expand_as(ctx.positions).gather(1, index),
        aux_losses=None if losses is None else replace(losses, counted=losses.counted.gather(1, index)),
    )
