"""Routers of mixture of depths, which select the tokens that a layer processes."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import not_implemented
from litmus.nn.moe.routers import counted_tokens


class DepthRouter(nn.Module):
    """Scores each token of x (B, T, dim) by a learned vector, in at least fp32; sigmoid(score) scales the update."""

    def __init__(self, capacity: float, layer: LayerContext) -> None:
        super().__init__()
        self.capacity = capacity
        self.weight = nn.Parameter(torch.empty(layer.dim))
        nn.init.normal_(self.weight, std=layer.dim**-0.5)  # variance of scores: 1, large compared with one step

    def forward(self, x: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor]:
        """Mask (B, T) of the selected tokens, without padding, and weight (B, T) of the layer's output for each."""
        scores = projected(x, self.weight)
        chosen = self.choose(scores, x, ctx)
        return (chosen if ctx.padding_mask is None else chosen & ctx.padding_mask), scores.sigmoid().to(x.dtype)

    def choose(self, scores: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Mask (B, T) of the selected tokens; the caller removes padding."""
        raise not_implemented(self, "choose(scores, x, ctx)")


class ThresholdRouter(DepthRouter):
    """Selects tokens whose score exceeds a threshold; the selection does not depend on other tokens of the batch.

    After each training step the threshold moves by a fraction `rate` towards the score that a fraction `capacity` of
    the step's tokens exceeded (mean over micro-batches, weighted by tokens). It is initialized to the quantile of
    N(0, 1), the distribution of scores at initialization.
    """

    threshold: Tensor
    seen: Tensor
    tokens: Tensor

    def __init__(self, capacity: float, rate: float, layer: LayerContext) -> None:
        super().__init__(capacity, layer)
        self.rate = rate
        self.register_buffer("threshold", torch.tensor(NormalDist().inv_cdf(1 - capacity)))
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("tokens", torch.zeros(()), persistent=False)

    def choose(self, scores: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        if self.training and ctx.aux_losses is not None:
            counted = counted_tokens(ctx)
            tokens = counted.sum()
            exceeded = torch.nanquantile(scores.detach().masked_fill(~counted, torch.nan), 1 - self.capacity)
            self.tokens += tokens
            self.seen += tokens * exceeded.nan_to_num(0.0)
        return scores > self.threshold

    @torch.no_grad()
    def post_optimizer_step(self) -> None:
        """Update the threshold, so that the fraction of selected tokens stays near the capacity."""
        found = self.seen / self.tokens.clamp(min=1)
        self.threshold += self.rate * torch.where(self.tokens > 0, found - self.threshold, 0.0)
        self.seen.zero_()
        self.tokens.zero_()


class TopKRouter(DepthRouter):
    """In training, selects the `capacity` · T tokens of each row with the highest scores, as published: not causal.

    The selection of a token depends on later tokens. A predictor learns it from the token alone, by binary
    cross-entropy on detached inputs; evaluation and decoding select by the predictor.
    """

    def __init__(self, capacity: float, predictor_weight: float, layer: LayerContext) -> None:
        super().__init__(capacity, layer)
        self.predictor_weight = predictor_weight
        self.predictor = nn.Parameter(torch.zeros(layer.dim))
        self.predictor_bias = nn.Parameter(torch.zeros(()))

    def choose(self, scores: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        logits = projected(x.detach(), self.predictor) + self.predictor_bias
        if not self.training:
            return logits > 0
        real = (
            scores.detach() if ctx.padding_mask is None else scores.detach().masked_fill(~ctx.padding_mask, -torch.inf)
        )
        index = real.topk(max(1, round(self.capacity * x.shape[1])), dim=1).indices
        chosen = torch.zeros_like(real, dtype=torch.bool).scatter(1, index, True)
        if ctx.aux_losses is not None:
            counted = counted_tokens(ctx)
            nats = F.binary_cross_entropy_with_logits(logits, chosen.to(logits.dtype), reduction="none")
            tokens = counted.sum()
            value = (nats * counted).sum() / tokens.clamp(min=1)
            ctx.aux_losses.add("depth_predictor", value, self.predictor_weight, tokens)
        return chosen


def projected(x: Tensor, weight: Tensor) -> Tensor:
    """weight · x / rms(x) for x (B, T, dim), (B, T) in at least fp32, as rounding would change the selection."""
    exact = torch.promote_types(x.dtype, torch.float32)
    return (F.rms_norm(x.to(exact), weight.shape) * weight.to(exact)).sum(-1)
