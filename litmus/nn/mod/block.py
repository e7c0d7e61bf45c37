"""Mixture of depths: some layers process only the tokens that a router chooses; the others pass by unchanged."""

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
    """In every `every`-th layer a router chooses about `capacity` of the tokens; the other layers take all.

    `selection: threshold` chooses each token by itself, and `rate` is how fast the threshold follows the scores.
    `selection: topk` is the published one, which sees the future in training; `predictor_weight` weighs the loss of
    the predictor that stands in for it afterwards.
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
    """x + sigmoid(r) · (block(x) - x) for chosen tokens, x for the rest (Raposo et al. 2024, arXiv 2404.02258).

    Inside, the chosen tokens are a text of their own: they read each other alone, and positions count them alone. The
    cache holds them side by side; `chosen` says how many there are of each row. Any number may come to be chosen, so
    its buffers have a slot for every token.
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
        inner = self._among_chosen(chosen, ctx)
        if ctx.cache is not None:
            ctx.cache["chosen"] += chosen.sum(1, keepdim=True)
        if ctx.use_reference:
            y = self.block(x, inner)
            return torch.where(chosen[..., None], x + weight[..., None] * (y - x), x)
        places = self._places(chosen, ctx)
        if not places.shape[1]:
            return x
        taken = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        y = self.block(taken, gathered(inner, places))
        change = chosen.gather(1, places)[..., None] * weight.gather(1, places)[..., None] * (y - taken)
        return x.scatter_add(1, places[..., None].expand_as(change), change.to(x.dtype))

    def _among_chosen(self, chosen: Tensor, ctx: ForwardContext) -> ForwardContext:
        """The step in which all but the chosen tokens are padding."""
        index = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
        positions, cache = positions_within(ctx.document_ids, chosen, index), ctx.cache
        if cache is not None:
            positions = positions + cache["chosen"]
            cache = {name: buffer for name, buffer in cache.items() if name != "chosen"}
        # What the chosen tokens' layers share and show of themselves is about another text than the other layers'.
        return replace(
            ctx, positions=positions, start_pos=None, padding_mask=chosen, cache=cache, memo_store={}, observed=None
        )

    def _places(self, chosen: Tensor, ctx: ForwardContext) -> Tensor:
        """(B, M) where the chosen tokens of each row stand, in order, and then others, up to the longest row's M."""
        if has_values(chosen):
            most = int(chosen.sum(1).max())
        else:
            most = round(self.capacity * chosen.shape[1])
        # In training every weight gets a gradient, if of 0, and every layer leaves its terms.
        least = 1 if torch.is_grad_enabled() or ctx.aux_losses is not None else 0
        return chosen.long().argsort(dim=1, descending=True, stable=True)[:, : max(least, most)]

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        counts = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return {**self.block.new_cache(batch, capacity, device=device, dtype=dtype), "chosen": counts}

    def kv_elements(self, capacity: int) -> int:
        return self.block.kv_elements(capacity) + 1


def gathered(ctx: ForwardContext, places: Tensor) -> ForwardContext:
    """The step of the tokens at places (B, M) alone."""
    assert ctx.padding_mask is not None
    terms = ctx.aux_losses
    return replace(
        ctx,
        positions=ctx.positions.gather(1, places),
        padding_mask=ctx.padding_mask.gather(1, places),
        document_ids=None if ctx.document_ids is None else ctx.document_ids.expand_as(ctx.positions).gather(1, places),
        aux_losses=None if terms is None else replace(terms, counted=terms.counted.gather(1, places)),
    )
