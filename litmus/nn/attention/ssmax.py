"""Scalable-Softmax: attention scores times s·log n, so that attention does not flatten with the number n of keys."""

from __future__ import annotations

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from litmus.bounds import Bounded
from litmus.nn.core.forward_context import ForwardContext


class SSMaxConfig(Bounded):
    """`init` 0.168 makes the mean of s·log n over n <= 1024 equal 1; `learned: false` fixes s at 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    learned: bool = True
    init: float = Field(0.168, gt=0)
    bias: bool = False


class SSMax(nn.Module):
    """The query scale s·log n (+ b): factor on the scores of each query and head (Nakanishi 2025, arXiv 2501.19399).

    n is the number of keys that the query attends to: its position + 1 or, if smaller, the window; or given by the
    mixer. s (and b) are one learned scalar per head.
    """

    def __init__(self, config: SSMaxConfig, heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((heads,), config.init)) if config.learned else None
        self.bias = nn.Parameter(torch.zeros(heads)) if config.bias else None

    def forward(self, ctx: ForwardContext, window: int | None = None, *, keys: Tensor | None = None) -> Tensor:
        """The query scale (B or 1, T, H or 1) in at least fp32; `keys` (B or 1, T) gives n instead of `window`."""
        exact = torch.float32 if self.scale is None else torch.promote_types(self.scale.dtype, torch.float32)
        if keys is not None:
            query_scale = keys.to(exact).log()[..., None]
        else:
            query_scale = ctx.memo(("log n", window, exact), lambda: _log_keys(ctx, window, exact))
        if self.scale is not None:
            query_scale = query_scale * self.scale.to(exact)
        if self.bias is not None:
            query_scale = query_scale + self.bias.to(exact)
        return query_scale


def _log_keys(ctx: ForwardContext, window: int | None, dtype: torch.dtype) -> Tensor:
    positions = ctx.positions[:1] if ctx.start_pos is not None else ctx.positions
    keys = positions + 1 if window is None else (positions + 1).clamp(max=window)
    return keys.to(dtype).log()[..., None]
