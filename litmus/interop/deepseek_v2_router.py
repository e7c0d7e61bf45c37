"""DeepSeek-V2's router, as a plug-in: gates are plain probabilities, within each token's best groups of experts."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from litmus.errors import BadInput
from litmus.nn import Router, Routing, Site
from litmus.nn.routing import SoftmaxRouter, SoftmaxRouterConfig


class DeepseekV2RouterConfig(SoftmaxRouterConfig):
    """`scale` multiplies the gates; with `groups`, a token chooses among the experts of `top_groups` groups only."""

    kind: Literal["softmax_v2"] = "softmax_v2"  # type: ignore[assignment]
    balance: float = Field(0.003, ge=0)
    scale: float = Field(1.0, gt=0)
    groups: int = Field(1, ge=1)
    top_groups: int = Field(1, ge=1)

    def build_for(self, experts: int, top_k: int, site: Site) -> Router:
        if experts % self.groups:
            raise BadInput(f"groups = {self.groups} does not divide experts = {experts}")
        if not top_k <= experts // self.groups * self.top_groups <= experts:
            raise BadInput(
                f"top_k = {top_k} of {self.top_groups} among {self.groups} groups of {experts} cannot be chosen"
            )
        return DeepseekV2Router(self, experts, top_k, site)


class DeepseekV2Router(SoftmaxRouter):
    """The k likeliest experts of softmax(x W), weighed by their probabilities as they are, times `scale`.

    DeepSeek-V2 (arXiv 2405.04434, section 2.1.2). A group ranks by its likeliest expert.
    """

    def __init__(self, config: DeepseekV2RouterConfig, experts: int, top_k: int, site: Site) -> None:
        super().__init__(config, experts, top_k, site)
        self.config = config

    def forward(self, x: Tensor) -> Routing:
        shares = self.scores(x).softmax(-1)
        gates, experts = self._allowed(shares).topk(self.top_k, dim=-1)
        return Routing(experts, self.config.scale * gates, shares)

    def _allowed(self, shares: Tensor) -> Tensor:
        """Probabilities (N, E), 0 outside each token's best groups."""
        grouped = shares.unflatten(-1, (self.config.groups, -1))
        best = grouped.amax(-1).topk(self.config.top_groups, dim=-1).indices
        inside = torch.zeros(grouped.shape[:-1], dtype=torch.bool, device=shares.device).scatter(-1, best, True)
        return grouped.masked_fill(~inside[..., None], 0.0).flatten(-2)


recipe = {"base": "moe", "feedforward": {"router": {"kind": "softmax_v2"}}}
