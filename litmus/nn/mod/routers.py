"""Which tokens a layer processes, where it processes only a share of them."""

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
    """Scores each token of x (B, T, dim) by one learned vector, in at least fp32; the sigmoid weighs what is done."""

    def __init__(self, capacity: float, layer: LayerContext) -> None:
        super().__init__()
        self.capacity = capacity
        self.weight = nn.Parameter(torch.empty(layer.dim))
        nn.init.normal_(self.weight, std=layer.dim**-0.5)  # scores of variance 1, wide against what one step moves them

    def forward(self, x: Tensor, ctx: ForwardContext) -> tuple[Tensor, Tensor]:
        """Which tokens are chosen (B, T), never padding, and the weight (B, T) of what the layer does to each."""
        scores = projected(x, self.weight)
        chosen = self.choose(scores, x, ctx)
        return (chosen if ctx.padding_mask is None else chosen & ctx.padding_mask), scores.sigmoid().to(x.dtype)

    def choose(self, scores: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Which tokens are chosen (B, T)."""
        raise not_implemented(self, "choose(scores, x, ctx)")


class ThresholdRouter(DepthRouter):
    """Chooses a token when its score is above a threshold, which no other token of the step has a say in.

    After each training step the threshold moves by `rate` of the way to the score that `capacity` of that step's tokens
    exceeded (the mean over its batches, by their tokens). At the start it is that of the scores' distribution at
    initialization, N(0, 1).
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
        """Follow the scores, so that the share of chosen tokens stays near the capacity."""
        found = self.seen / self.tokens.clamp(min=1)
        self.threshold += self.rate * torch.where(self.tokens > 0, found - self.threshold, 0.0)
        self.seen.zero_()
        self.tokens.zero_()


class TopKRouter(DepthRouter):
    """Training: the `capacity` · T tokens of each row with the highest scores, as published. It sees the future.

    Whether a token is among them depends on tokens that come later. A predictor learns to tell from the token alone,
    by binary cross-entropy on vectors that pass no gradient back; evaluation and decoding choose by it.
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
        places = real.topk(max(1, round(self.capacity * x.shape[1])), dim=1).indices
        chosen = torch.zeros_like(real, dtype=torch.bool).scatter(1, places, True)
        if ctx.aux_losses is not None:
            counted = counted_tokens(ctx)
            nats = F.binary_cross_entropy_with_logits(logits, chosen.to(logits.dtype), reduction="none")
            tokens = counted.sum()
            value = (nats * counted).sum() / tokens.clamp(min=1)
            ctx.aux_losses.add("depth_predictor", value, self.predictor_weight, tokens)
        return chosen


def projected(x: Tensor, weight: Tensor) -> Tensor:
    """weight · x / rms(x) for x (B, T, dim), (B, T) in at least fp32: near ties decide, so they must not be rounded."""
    exact = torch.promote_types(x.dtype, torch.float32)
    return (F.rms_norm(x.to(exact), weight.shape) * weight.to(exact)).sum(-1)
