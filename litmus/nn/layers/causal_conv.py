"""A depthwise convolution over the tokens before each token, for texts in any form: padded, packed or decoded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmus.nn.core.forward_context import ForwardContext


class CausalConv(nn.Module):
    """y_t = bias + sum over j < width of weight_j · x_{t-j}, each channel by itself; x is 0 before a text begins.

    What stands at t and what comes before are computed apart, since a query may replace the former alone. Weights
    start as in torch's Conv1d, U(±1/sqrt(width)); the bias starts at 0, or embeddings of std 0.02 would vanish in it.
    The weight is (width, 1, dim): no matrix that acts on vectors, so that no optimizer for matrices takes it for one.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, dim).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(dim))

    @property
    def lags(self) -> int:
        """How many tokens before each it reads."""
        return len(self.weight) - 1

    def here(self, x: Tensor) -> Tensor:
        """What the token itself adds, for x (B, N, dim)."""
        return x * self.weight[0]

    def before(self, x: Tensor, ctx: ForwardContext, history: Tensor | None = None) -> Tensor:
        """What the tokens before each of x (B, T, dim) add, and the bias; `history` (B, lags, dim) is brought on.

        `history` holds the states of the last tokens before this step, and afterwards those at its end.
        """
        if not self.lags:
            return self.bias.to(x.dtype).expand_as(x)
        start = x.new_zeros(x.shape[0], self.lags, x.shape[2]) if history is None else history.to(x.dtype)
        states = torch.cat((start, x), dim=1)  # (B, lags + T, dim)
        total = self.bias.to(x.dtype)
        for lag in range(1, self.lags + 1):
            total = torch.addcmul(total, self.weight[lag], self._earlier(states, lag, ctx))
        if history is not None:
            history.copy_(self._last(states, ctx))
        return total

    def _earlier(self, states: Tensor, lag: int, ctx: ForwardContext) -> Tensor:
        """The state of the token `lag` places before each token in its text, (B, T, dim)."""
        if not ctx.use_reference and ctx.padding_mask is None:
            length = ctx.positions.shape[1]
            found = states[:, self.lags - lag : self.lags - lag + length]
            if ctx.document_ids is None:
                return found
        else:
            found = _rows(states, self._place(_rank(ctx) - lag, ctx))
        return found.masked_fill((ctx.positions < lag)[..., None], 0)

    def _last(self, states: Tensor, ctx: ForwardContext) -> Tensor:
        """The states of the last `lags` tokens of each row, (B, lags, dim)."""
        if ctx.padding_mask is None:
            return states[:, -self.lags :]
        last = ctx.padding_mask.sum(1, keepdim=True) - self.lags + torch.arange(self.lags, device=states.device)
        return _rows(states, self._place(last, ctx))

    def _place(self, rank: Tensor, ctx: ForwardContext) -> Tensor:
        """Where in history and new states together the token of this rank among the row's new tokens stands."""
        order = ctx.memo("order of tokens", lambda: _order(ctx))
        inside = order.gather(1, rank.clamp(0, order.shape[1] - 1))
        return (self.lags + torch.where(rank < 0, rank, inside)).clamp(min=0)


def _rank(ctx: ForwardContext) -> Tensor:
    """Which of its row's new tokens each token is, from 0, padding not counted."""
    real = torch.ones_like(ctx.positions) if ctx.padding_mask is None else ctx.padding_mask.long()
    return real.cumsum(1) - 1


def _order(ctx: ForwardContext) -> Tensor:
    """(B, T) the places of each row's real tokens in order, those of padding behind them."""
    real = torch.ones_like(ctx.positions) if ctx.padding_mask is None else ctx.padding_mask.long()
    return real.argsort(dim=1, descending=True, stable=True)


def _rows(states: Tensor, index: Tensor) -> Tensor:
    """The states (B, N, dim) at index (B, N) of states (B, T, dim)."""
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
