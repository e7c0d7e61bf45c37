"""Gated attention: a learned gate on the output of each head."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from torch import Tensor, nn

from litmus.bounds import Bounded
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.layers.linear import linear


class GateConfig(Bounded):
    """`headwise`: one score per head; `elementwise`: one per element of a head's output.

    `score: ns_sigmoid` is the paper's control: scores are at least 1/2, so that the gate cannot close.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["headwise", "elementwise"] = "headwise"
    score: Literal["sigmoid", "ns_sigmoid"] = "sigmoid"


class Gate(nn.Module):
    """Y' = Y * sigmoid(X W_g) (Qiu et al. 2025, arXiv 2505.06708, position G1).

    Y are the heads' outputs before the output projection, X the normed inputs of the layer. The control, ns_sigmoid, is
    non-sparse: 1/2 + 1/2 · sigmoid(X W_g).
    """

    def __init__(self, config: GateConfig, heads: int, head_dim: int, layer: LayerContext) -> None:
        super().__init__()
        self.heads = heads
        self.sparse = config.score == "sigmoid"
        self.map = linear(layer.dim, heads * (head_dim if config.kind == "elementwise" else 1))

    def forward(self, y: Tensor, x: Tensor, ctx: ForwardContext) -> Tensor:
        """Gate the heads' outputs y (B, T, H, D) by x (B, T, dim); record the mean score in `ctx.observed`."""
        scores = self.map(x).sigmoid().unflatten(-1, (self.heads, -1))  # (B, T, H, 1 or D)
        if not self.sparse:
            scores = 0.5 + 0.5 * scores
        if ctx.observed is not None:
            ctx.observed.setdefault("mean_gate", []).append(scores.mean())
        return y * scores
