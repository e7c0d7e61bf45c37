"""The linear recurrence of recurrent mixers, for texts in any form: padded, packed, decoded in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from litmus.nn.core.forward_context import ForwardContext


def recurrent_scan(x: Tensor, decay: Tensor | float, ctx: ForwardContext, state: Tensor | None = None) -> Tensor:
    """h_t = decay_t · h_{t-1} + x_t for x (B, T, ...), with h = 0 before each text; returns h (B, T, ...).

    decay: a number, or a tensor that broadcasts against x. state: (B, ...) the h of the tokens before these, a buffer
    of `ctx.cache`; it is overwritten with the h of the last token. Padding leaves h as it is. The fast path is a
    parallel scan in log2(T) passes (Hillis & Steele 1986), the reference one token after the other.
    """
    decay = torch.as_tensor(decay, dtype=x.dtype, device=x.device).expand_as(x)
    first = ctx.positions == 0
    if ctx.padding_mask is not None:
        real = _aligned(ctx.padding_mask, x)
        # A pad after the only token of a text also has position 0, and must not clear the state.
        first = first & ctx.padding_mask
        x, decay = torch.where(real, x, 0.0), torch.where(real, decay, 1.0)
    decay = torch.where(_aligned(first, x), 0.0, decay)
    before = torch.zeros_like(x[:, 0]) if state is None else state.to(x.dtype)
    h = _one_by_one(x, decay, before) if ctx.use_reference else _doubling(x, decay, before)
    if state is not None:
        state.copy_(h[:, -1])
    return h


def _one_by_one(x: Tensor, decay: Tensor, h: Tensor) -> Tensor:
    states = []
    for t in range(x.shape[1]):
        h = decay[:, t] * h + x[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


def _doubling(x: Tensor, decay: Tensor, before: Tensor) -> Tensor:
    """After the pass of stride s, x_t and decay_t describe the step from h_{t-2s} to h_t."""
    stride = 1
    while stride < x.shape[1]:
        x = torch.cat((x[:, :stride], decay[:, stride:] * x[:, :-stride] + x[:, stride:]), dim=1)
        decay = torch.cat((decay[:, :stride], decay[:, stride:] * decay[:, :-stride]), dim=1)
        stride *= 2
    return decay * before[:, None] + x


def _aligned(mask: Tensor, x: Tensor) -> Tensor:
    """The mask (B, T) with the trailing dimensions of x (B, T, ...)."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
