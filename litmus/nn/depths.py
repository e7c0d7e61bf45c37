"""Mixture of depths: some layers process only the tokens that a router chooses; the others pass by unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn.blocks import BlockConfig, PreNormBlock
from litmus.nn.depth_routers import DepthRouter, ThresholdRouter, TopKRouter
from litmus.nn.feedforwards import FeedforwardConfig
from litmus.nn.mixers import Mixer, MixerConfig
from litmus.nn.parts import Site
from litmus.nn.shapes import has_values
from litmus.nn.step import Buffers, Step, positions_within


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

    def assemble(self, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> Mixer:
        if self.every > site.depth:
            raise BadInput(f"every = {self.every} routes none of {site.depth} layers; at most depth is valid")
        if (site.layer + 1) % self.every:
            return PreNormBlock(mixer, feedforward, site)
        return DepthBlock(self, mixer, feedforward, site)


class DepthBlock(Mixer):
    """x + sigmoid(r) · (block(x) - x) for chosen tokens, x for the rest (Raposo et al. 2024, arXiv 2404.02258).

    Inside, the chosen tokens are a text of their own: they read each other alone, and positions count them alone. The
    cache holds them side by side; `chosen` says how many there are of each row. Any number may come to be chosen, so
    its buffers have a slot for every token.
    """

    def __init__(self, config: DepthConfig, mixer: MixerConfig, feedforward: FeedforwardConfig, site: Site) -> None:
        super().__init__()
        self.capacity = config.capacity
        self.block = PreNormBlock(mixer, feedforward, site)
        self.router: DepthRouter = (
            ThresholdRouter(config.capacity, config.rate, site)
            if config.selection == "threshold"
            else TopKRouter(config.capacity, config.predictor_weight, site)
        )

    def forward(self, x: Tensor, step: Step) -> Tensor:
        chosen, weight = self.router(x, step)
        if step.observed is not None:
            step.observed.setdefault("processed_share", []).append(chosen.float().mean())
        inner = self._among_chosen(chosen, step)
        if step.cache is not None:
            step.cache["chosen"] += chosen.sum(1, keepdim=True)
        if not step.fast:
            y = self.block(x, inner)
            return torch.where(chosen[..., None], x + weight[..., None] * (y - x), x)
        places = self._places(chosen, step)
        if not places.shape[1]:
            return x
        taken = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        y = self.block(taken, gathered(inner, places))
        change = chosen.gather(1, places)[..., None] * weight.gather(1, places)[..., None] * (y - taken)
        return x.scatter_add(1, places[..., None].expand_as(change), change.to(x.dtype))

    def _among_chosen(self, chosen: Tensor, step: Step) -> Step:
        """The step in which all but the chosen tokens are padding."""
        index = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
        positions, cache = positions_within(step.documents, chosen, index), step.cache
        if cache is not None:
            positions = positions + cache["chosen"]
            cache = {name: buffer for name, buffer in cache.items() if name != "chosen"}
        # What the chosen tokens' layers share and show of themselves is about another text than the other layers'.
        return replace(step, positions=positions, start=None, valid=chosen, cache=cache, shared={}, observed=None)

    def _places(self, chosen: Tensor, step: Step) -> Tensor:
        """(B, M) where the chosen tokens of each row stand, in order, and then others, up to the longest row's M."""
        if has_values(chosen):
            most = int(chosen.sum(1).max())
        else:
            most = round(self.capacity * chosen.shape[1])
        # In training every weight gets a gradient, if of 0, and every layer leaves its terms.
        least = 1 if torch.is_grad_enabled() or step.terms is not None else 0
        return chosen.long().argsort(dim=1, descending=True, stable=True)[:, : max(least, most)]

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        counts = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return {**self.block.new_cache(batch, capacity, device=device, dtype=dtype), "chosen": counts}

    def cached_numbers(self, capacity: int) -> int:
        return self.block.cached_numbers(capacity) + 1


def gathered(step: Step, places: Tensor) -> Step:
    """The step of the tokens at places (B, M) alone."""
    assert step.valid is not None
    terms = step.terms
    return replace(
        step,
        positions=step.positions.gather(1, places),
        valid=step.valid.gather(1, places),
        documents=None if step.documents is None else step.documents.expand_as(step.positions).gather(1, places),
        terms=None if terms is None else replace(terms, counted=terms.counted.gather(1, places)),
    )
