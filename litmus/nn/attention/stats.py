"""Statistics of attention, recorded in `ctx.observed` when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from litmus.nn.attention.attend import attention_weights
from litmus.nn.core.forward_context import AttentionMask, ForwardContext

MAX_QUERIES = 1024
"""Queries of each row that are measured; of longer rows evenly spaced ones, because all of them take T x T weights."""

MAX_WEIGHTS = 2**22
"""Attention weights in memory at one time (16 MB in fp32), unless a single query has more keys."""


def observed_queries(count: int, device: torch.device) -> Tensor:
    """Which of `count` queries are measured: all, or MAX_QUERIES of them from the first to the last."""
    if count <= MAX_QUERIES:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, MAX_QUERIES, device=device, dtype=torch.float64).round().long()


def observe_attention(
    q: Tensor,
    k: Tensor,
    attention_mask: AttentionMask | Callable[[Tensor], Tensor],
    query_scale: Tensor | None,
    ctx: ForwardContext,
) -> None:
    """Record two statistics of softmax(factor · q·k / sqrt(D)) in `ctx.observed`, if it is there.

    attention_mask may be a function from indices of queries (n,) to their mask (B or 1, 1, n, S), if the whole mask
    would be large. attention_entropy: entropy of a query's weights in nats. first_token_attention: the weight of the
    first key (1 for the first token itself). Both are means over rows, heads and the measured queries.
    """
    if ctx.observed is None:
        return
    shared = q.shape[2] // k.shape[2]
    entropy = torch.zeros((), device=q.device, dtype=torch.float32)
    first = torch.zeros_like(entropy)
    queries = observed_queries(q.shape[1], q.device)
    for some in queries.split(max(1, MAX_WEIGHTS // (q.shape[0] * k.shape[1]))):
        mask = _of_queries(attention_mask, some, k.shape[1])
        scale = None if query_scale is None else query_scale[:, some]
        for head in range(q.shape[2]):
            one = slice(head, head + 1)
            part = scale if scale is None or scale.shape[-1] == 1 else scale[..., one]
            weights = attention_weights(q[:, some, one], k[:, :, head // shared, None], mask, part)
            entropy = entropy + torch.special.entr(weights).sum(-1).mean(0).sum().float()
            first = first + weights[..., 0].mean(0).sum().float()
    number = q.shape[2] * len(queries)
    ctx.observed.setdefault("attention_entropy", []).append(entropy / number)
    ctx.observed.setdefault("first_token_attention", []).append(first / number)


def _of_queries(attention_mask: AttentionMask | Callable[[Tensor], Tensor], some: Tensor, keys: int) -> AttentionMask:
    """What the queries of these numbers read."""
    if isinstance(attention_mask, Tensor):
        return attention_mask[:, :, some]
    if attention_mask == "causal":
        return (torch.arange(keys, device=some.device) <= some[:, None])[None, None]
    return "all" if isinstance(attention_mask, str) else attention_mask(some)
