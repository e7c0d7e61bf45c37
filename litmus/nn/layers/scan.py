"""The linear recurrence of recurrent mixers, with padding, packed documents and a decoding cache."""

from __future__ import annotations

import torch
from torch import Tensor

from litmus.nn.core.forward_context import ForwardContext


def recurrent_scan(x: Tensor, decay: Tensor | float, ctx: ForwardContext, state: Tensor | None = None) -> Tensor:
    """h_t = decay_t · h_{t-1} + x_t for x (B, T, ...), with h = 0 before each text; returns h (B, T, ...).

    decay: a number, or a tensor that broadcasts against x. state: (B, ...) h after the previous tokens, a buffer of
    `ctx.cache`; overwritten with h after the last token. Padding does not change h. The fast path is a parallel scan in
    log2(T) passes (Hillis & Steele 1986), the reference a loop over tokens.
    """
    decay = torch.as_tensor(decay, dtype=x.dtype, device=x.device).expand_as(x)
    first = ctx.positions == 0
    if ctx.padding_mask is not None:
        real = _aligned(ctx.padding_mask, x)
        # Padding after a text of one token also has position 0, but must not reset the state.
        first = first & ctx.padding_mask
        x, decay = torch.where(real, x, 0.0), torch.where(real, decay, 1.0)
    decay = torch.where(_aligned(first, x), 0.0, decay)
    before = torch.zeros_like(x[:, 0]) if state is None else state.to(x.dtype)
    h = _sequential_scan(x, decay, before) if ctx.use_reference else _parallel_scan(x, decay, before)
    if state is not None:
        state.copy_(h[:, -1])
    return h


def _sequential_scan(x: Tensor, decay: Tensor, h: Tensor) -> Tensor:
    states = []
    for t in range(x.shape[1]):
        h = decay[:, t] * h + x[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


def _parallel_scan(x: Tensor, decay: Tensor, before: Tensor) -> Tensor:
    """After the pass with stride s, h_t = decay_t · h_{t-2s} + x_t."""
    stride = 1
    while stride < x.shape[1]:
        x = torch.cat((x[:, :stride], decay[:, stride:] * x[:, :-stride] + x[:, stride:]), dim=1)
        decay = torch.cat((decay[:, :stride], decay[:, stride:] * decay[:, :-stride]), dim=1)
        stride *= 2
    return decay * before[:, None] + x


def _aligned(mask: Tensor, x: Tensor) -> Tensor:
    """The mask (B, T) with the trailing dimensions of x (B, T, ...)."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - 2))
