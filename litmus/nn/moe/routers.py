"""Routers of a mixture of experts: selection of experts, gates, and load balancing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.nn.core.aux_losses import over_step
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part, not_implemented
from litmus.nn.layers.linear import INIT_STD


@dataclass(frozen=True)
class Routing:
    """The experts of N tokens; floats are at least fp32.

    experts: (N, K) indices of the selected experts. gates: (N, K) weights of their outputs.
    shares: (N, E) normalized scores of all experts; every row sums to 1.
    """

    experts: Tensor
    gates: Tensor
    shares: Tensor


class RouterConfig(Part):
    """Base config of routers."""

    family: ClassVar[str] = "router"
    build_arguments: ClassVar[tuple[str, ...]] = ("experts", "top_k")

    def build(self, layer: LayerContext, experts: int = 1, top_k: int = 1) -> Router:
        raise not_implemented(self, "build(layer, experts, top_k)")


class SoftmaxRouterConfig(RouterConfig):
    """`balance` is the weight of the balance loss."""

    kind: Literal["softmax"] = "softmax"
    balance: float = Field(0.01, ge=0)

    def build(self, layer: LayerContext, experts: int = 1, top_k: int = 1) -> Router:
        return SoftmaxRouter(self, experts, top_k, layer)


class GroupedRouterConfig(RouterConfig):
    """`balance` is the weight of the balance loss, `scale` a factor on gates.

    With `groups`, each token selects experts from its `top_groups` best groups only.
    """

    balance: float = Field(1e-4, ge=0)
    scale: float = Field(1.0, gt=0)
    groups: int = Field(1, ge=1)
    top_groups: int = Field(1, ge=1)

    def check(self, experts: int, top_k: int) -> None:
        """Raise BadInput if groups do not divide experts, or `top_k` exceeds the experts in a token's groups."""
        if experts % self.groups:
            raise BadInput(f"groups = {self.groups} does not divide experts = {experts}")
        if self.top_groups > self.groups:
            raise BadInput(f"top_groups = {self.top_groups} is more than groups = {self.groups}")
        reachable = experts // self.groups * self.top_groups
        if top_k > reachable:
            raise BadInput(
                f"top_k = {top_k} is more than the {reachable} experts in top_groups = {self.top_groups} groups"
            )


class SigmoidRouterConfig(GroupedRouterConfig):
    """The router of DeepSeek-V3; `bias_rate` is the step size of the bias, the balance loss is per sequence."""

    kind: Literal["sigmoid"] = "sigmoid"
    bias_rate: float = Field(1e-3, ge=0)

    def build(self, layer: LayerContext, experts: int = 1, top_k: int = 1) -> Router:
        self.check(experts, top_k)
        return SigmoidRouter(self, experts, top_k, layer)


class SoftmaxV2RouterConfig(GroupedRouterConfig):
    """The router of DeepSeek-V2: gates are unnormalized probabilities; the balance loss is that of `softmax`."""

    kind: Literal["softmax_v2"] = "softmax_v2"
    balance: float = Field(0.003, ge=0)

    def build(self, layer: LayerContext, experts: int = 1, top_k: int = 1) -> Router:
        self.check(experts, top_k)
        return SoftmaxV2Router(self, experts, top_k, layer)


class Router(nn.Module):
    """Scores tokens (N, dim) by one vector per expert, in at least fp32 whatever the model's dtype."""

    matrices: ClassVar[tuple[str, ...]] = ()  # one vector per expert, not a matrix for the optimizer to orthogonalize

    def __init__(self, experts: int, top_k: int, layer: LayerContext) -> None:
        super().__init__()
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(experts, layer.dim))
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, x: Tensor) -> Routing:
        """Select experts for each of the tokens x (N, dim), independently of each other."""
        raise not_implemented(self, "forward(x)")

    def add_aux_losses(self, routing: Routing, ctx: ForwardContext) -> None:
        """Add the losses that balance the load to `ctx.aux_losses`."""
        raise not_implemented(self, "add_aux_losses(routing, ctx)")

    def scores(self, x: Tensor) -> Tensor:
        """Scores (N, E) in at least fp32, as rounding would change the selection."""
        exact = torch.promote_types(x.dtype, torch.float32)
        with _without_autocast(x.device):
            return F.linear(x.to(exact), self.weight.to(exact))


class SoftmaxRouter(Router):
    """The top k experts of softmax(x W), with probabilities renormalized (Shazeer et al. 2017, arXiv 1701.06538).

    Balance loss: E · sum_e mean probability of e · fraction of assignments to e; 1 if the load is uniform
    (Fedus et al. 2021, Switch Transformers, arXiv 2101.03961, equation 4, over k choices per token).
    """

    def __init__(
        self, config: SoftmaxRouterConfig | SoftmaxV2RouterConfig, experts: int, top_k: int, layer: LayerContext
    ) -> None:
        super().__init__(experts, top_k, layer)
        self.balance = config.balance

    def forward(self, x: Tensor) -> Routing:
        scores = self.scores(x)
        chosen, experts = scores.topk(self.top_k, dim=-1)
        return Routing(experts, chosen.softmax(-1), scores.softmax(-1))

    def add_aux_losses(self, routing: Routing, ctx: ForwardContext) -> None:
        assert ctx.aux_losses is not None
        if not self.balance:
            return
        counted = counted_tokens(ctx).flatten()
        tokens = counted.sum()
        probability = (routing.shares * counted[:, None]).sum(0) / tokens.clamp(min=1)
        # The load is that of the whole step, as a product of two means is not a sum over micro-batches.
        choices = over_step("choices", assignments(routing, counted[None])[0])
        fraction = choices / choices.sum().clamp(min=1)
        value = len(fraction) * (probability * fraction).sum()
        ctx.aux_losses.add("balance", value, self.balance, tokens)


class SoftmaxV2Router(SoftmaxRouter):
    """The top k experts of softmax(x W), weighted by their unnormalized probabilities times `scale`.

    DeepSeek-V2 (arXiv 2405.04434, section 2.1.2). Groups are ranked by their best expert.
    """

    def __init__(self, config: SoftmaxV2RouterConfig, experts: int, top_k: int, layer: LayerContext) -> None:
        super().__init__(config, experts, top_k, layer)
        self.config = config

    def forward(self, x: Tensor) -> Routing:
        shares = self.scores(x).softmax(-1)
        gates, experts = within_best_groups(shares, self.config, n_best=1, outside=0.0).topk(self.top_k, dim=-1)
        return Routing(experts, self.config.scale * gates, shares)


class SigmoidRouter(Router):
    """Affinities s = sigmoid(x W); experts are selected by s + bias, but gates depend on s alone.

    DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): gates are s normalized over the selected experts, times `scale`.
    After each training step, the bias of an expert with more tokens than the mean is decreased by `bias_rate`, that of
    an expert with fewer tokens increased.
    The loss per sequence of T tokens is sum_e f_e P_e, f_e = E / (K·T) · assignments to e, P_e = mean of s_e / sum s.
    """

    bias: Tensor
    load: Tensor

    def __init__(self, config: SigmoidRouterConfig, experts: int, top_k: int, layer: LayerContext) -> None:
        super().__init__(experts, top_k, layer)
        self.config = config
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Routing:
        affinities = self.scores(x).sigmoid()
        biased = within_best_groups(affinities.detach() + self.bias, self.config, n_best=2, outside=-torch.inf)
        experts = biased.topk(self.top_k, dim=-1).indices
        chosen = affinities.gather(-1, experts)
        gates = self.config.scale * chosen / chosen.sum(-1, keepdim=True).clamp(min=1e-20)
        return Routing(experts, gates, affinities / affinities.sum(-1, keepdim=True).clamp(min=1e-20))

    def add_aux_losses(self, routing: Routing, ctx: ForwardContext) -> None:
        assert ctx.aux_losses is not None
        counted = counted_tokens(ctx)
        count = assignments(routing, counted)
        if self.training:
            self.load += count.sum(0).long()
        if self.config.balance:
            shares = routing.shares.unflatten(0, counted.shape)
            tokens = counted.sum(1, keepdim=True).clamp(min=1)
            frequency = count * count.shape[-1] / (self.top_k * tokens)
            share = (shares * counted[..., None]).sum(1) / tokens
            rows = counted.any(1).sum()
            value = (frequency * share).sum() / rows.clamp(min=1)
            ctx.aux_losses.add("balance", value, self.config.balance, rows)

    @torch.no_grad()
    def post_optimizer_step(self) -> None:
        """Update the bias by the load since the last call."""
        load = self.load.to(torch.promote_types(self.bias.dtype, torch.float32))
        self.bias -= self.config.bias_rate * (load - load.mean()).sign()
        self.load.zero_()


def within_best_groups(scores: Tensor, config: GroupedRouterConfig, *, n_best: int, outside: float) -> Tensor:
    """Scores (N, E), but `outside` for experts outside the best groups by the sum of their `n_best` top scores."""
    if config.groups == 1:
        return scores
    grouped = scores.unflatten(-1, (config.groups, -1))
    best = grouped.topk(min(n_best, grouped.shape[-1]), dim=-1).values.sum(-1).topk(config.top_groups, dim=-1)
    elsewhere = torch.ones(grouped.shape[:-1], dtype=torch.bool, device=scores.device)
    elsewhere = elsewhere.scatter(-1, best.indices, False)
    return grouped.masked_fill(elsewhere[..., None], outside).flatten(-2)


def counted_tokens(ctx: ForwardContext) -> Tensor:
    """Mask (B, T) of the tokens in load statistics: real tokens that a scored target depends on."""
    counted = torch.ones_like(ctx.positions, dtype=torch.bool) if ctx.aux_losses is None else ctx.aux_losses.counted
    return counted if ctx.padding_mask is None else counted & ctx.padding_mask


def assignments(routing: Routing, counted: Tensor) -> Tensor:
    """Number (B, E) of the counted tokens (B, T) of each row that selected each expert."""
    rows, experts = counted.shape[0], routing.shares.shape[-1]
    chosen = routing.experts.view(rows, -1)
    weights = counted[..., None].expand(*counted.shape, routing.experts.shape[-1]).reshape(rows, -1)
    zeros = torch.zeros(rows, experts, dtype=routing.shares.dtype, device=chosen.device)
    return zeros.scatter_add(1, chosen, weights.to(zeros.dtype))


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
