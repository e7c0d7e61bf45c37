"""Token shifts and a causal depthwise convolution, with padding, packed documents and a decoding cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmus.nn.core.forward_context import ForwardContext


class CausalConv(nn.Module):
    """y_t = bias + sum over j < width of weight_j · x_{t-j} per channel, with x = 0 before the start of a text.

    The terms of x_t (`here`) and of earlier tokens (`before`) are separate methods, because the worker block replaces
    x_t alone. Weights are initialized as in torch's Conv1d, U(±1/sqrt(width)), but the bias to 0, because embeddings of
    std 0.02 are small compared with a random one. The weight is (width, 1, dim), so that optimizers for matrices
    (Muon) do not take it for one.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, dim).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(dim))

    @property
    def lags(self) -> int:
        """Number of earlier tokens in the kernel."""
        return len(self.weight) - 1

    def here(self, x: Tensor) -> Tensor:
        """The term of each token itself, for x (B, N, dim)."""
        return x * self.weight[0]

    def before(self, x: Tensor, ctx: ForwardContext, history: Tensor | None = None) -> Tensor:
        """The terms of earlier tokens and the bias, for x (B, T, dim).

        history: (B, lags, dim) inputs of the last tokens before x, a buffer of the cache; updated in place.
        """
        total = self.bias.to(x.dtype)
        if not self.lags:
            return total.expand_as(x)
        for lag, shifted in enumerate(token_shifts(x, self.lags, ctx, history), start=1):
            total = torch.addcmul(total, self.weight[lag], shifted)
        return total


def token_shifts(x: Tensor, lags: int, ctx: ForwardContext, history: Tensor | None = None) -> list[Tensor]:
    """For lag = 1 .. `lags`, the values (B, T, ...) of x `lag` tokens before each token, 0 before its text begins.

    x: (B, T, ...) vectors or token ids. history: (B, lags, ...) the values of the last tokens before x, a buffer of
    `ctx.cache`; updated in place.
    """
    start = x.new_zeros(x.shape[0], lags, *x.shape[2:]) if history is None else history.to(x.dtype)
    states = torch.cat((start, x), dim=1)  # (B, lags + T, ...)
    shifts = [_shifted(states, lag, lags, ctx) for lag in range(1, lags + 1)]
    if history is not None:
        history.copy_(_last(states, lags, ctx))
    return shifts


def _shifted(states: Tensor, lag: int, lags: int, ctx: ForwardContext) -> Tensor:
    if not ctx.use_reference and ctx.padding_mask is None:
        length = ctx.positions.shape[1]
        found = states[:, lags - lag : lags - lag + length]
        if ctx.document_ids is None:
            return found
    else:
        found = _gather(states, _index(_rank(ctx) - lag, lags, ctx))
    begins_later = (ctx.positions < lag).view(*ctx.positions.shape, *[1] * (states.ndim - 2))
    return found.masked_fill(begins_later, 0)


def _last(states: Tensor, lags: int, ctx: ForwardContext) -> Tensor:
    """The values (B, lags, ...) of the last `lags` tokens of each row."""
    if ctx.padding_mask is None:
        return states[:, states.shape[1] - lags :]
    last = ctx.padding_mask.sum(1, keepdim=True) - lags + torch.arange(lags, device=states.device)
    return _gather(states, _index(last, lags, ctx))


def _index(rank: Tensor, lags: int, ctx: ForwardContext) -> Tensor:
    """Index in (history, x) of the token of each rank among the row's new tokens; ranks below 0 are in history."""
    order = ctx.memo("order of tokens", lambda: _order(ctx))
    inside = order.gather(1, rank.clamp(0, order.shape[1] - 1))
    return (lags + torch.where(rank < 0, rank, inside)).clamp(min=0)


def _rank(ctx: ForwardContext) -> Tensor:
    """Rank of each token among its row's new tokens, from 0, without padding."""
    real = torch.ones_like(ctx.positions) if ctx.padding_mask is None else ctx.padding_mask.long()
    return real.cumsum(1) - 1


def _order(ctx: ForwardContext) -> Tensor:
    """(B, T) indices of each row's real tokens in order, followed by those of padding."""
    real = torch.ones_like(ctx.positions) if ctx.padding_mask is None else ctx.padding_mask.long()
    return real.argsort(dim=1, descending=True, stable=True)


def _gather(states: Tensor, index: Tensor) -> Tensor:
    """The states (B, N, ...) at index (B, N) of states (B, T, ...)."""
    aligned = index.view(*index.shape, *[1] * (states.ndim - 2))
    return states.gather(1, aligned.expand(*index.shape, *states.shape[2:]))
