"""Statistics of attention weights, recorded in `ctx.observed`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from litmus.nn.attention.attend import attention_weights
from litmus.nn.core.forward_context import AttentionMask, ForwardContext

MAX_MEASURED_QUERIES = 1024
"""Queries per row that are measured; in longer rows they are evenly spaced, as all queries would need T x T weights."""

MAX_WEIGHTS_IN_MEMORY = 2**22
"""Attention weights computed at a time (16 MB in fp32), unless a single query has more keys."""


def observed_queries(count: int, device: torch.device) -> Tensor:
    """Indices of the measured ones of `count` queries: all, or MAX_MEASURED_QUERIES from the first to the last."""
    if count <= MAX_MEASURED_QUERIES:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, MAX_MEASURED_QUERIES, device=device, dtype=torch.float64).round().long()


def observe_attention(
    q: Tensor,
    k: Tensor,
    attention_mask: AttentionMask | Callable[[Tensor], Tensor],
    query_scale: Tensor | None,
    ctx: ForwardContext,
) -> None:
    """Record two statistics of softmax(query_scale · q·k / sqrt(D)) in `ctx.observed`, unless that is None.

    attention_mask can be a function from indices of queries (n,) to their mask (B or 1, 1, n, S), to avoid a large
    mask. attention_entropy: entropy of a query's weights in nats. first_token_attention: weight of the first key (1 for
    the first query). Both are means over rows, heads and the measured queries.
    """
    if ctx.observed is None:
        return
    shared = q.shape[2] // k.shape[2]
    entropy = torch.zeros((), device=q.device, dtype=torch.float32)
    first = torch.zeros_like(entropy)
    queries = observed_queries(q.shape[1], q.device)
    for part in queries.split(max(1, MAX_WEIGHTS_IN_MEMORY // (q.shape[0] * k.shape[1]))):
        mask = _mask_of(attention_mask, part, k.shape[1])
        scale = None if query_scale is None else query_scale[:, part]
        for head in range(q.shape[2]):
            one = slice(head, head + 1)
            head_scale = scale if scale is None or scale.shape[-1] == 1 else scale[..., one]
            weights = attention_weights(q[:, part, one], k[:, :, head // shared, None], mask, head_scale)
            entropy = entropy + torch.special.entr(weights).sum(-1).mean(0).sum().float()
            first = first + weights[..., 0].mean(0).sum().float()
    number = q.shape[2] * len(queries)
    ctx.observed.setdefault("attention_entropy", []).append(entropy / number)
    ctx.observed.setdefault("first_token_attention", []).append(first / number)


def _mask_of(attention_mask: AttentionMask | Callable[[Tensor], Tensor], queries: Tensor, keys: int) -> AttentionMask:
    """The mask of the queries with these indices."""
    if isinstance(attention_mask, Tensor):
        return attention_mask[:, :, queries]
    if attention_mask == "causal":
        return (torch.arange(keys, device=queries.device) <= queries[:, None])[None, None]
    return "all" if isinstance(attention_mask, str) else attention_mask(queries)
