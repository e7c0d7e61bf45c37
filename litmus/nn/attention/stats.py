"""Figures that layers leave about themselves when somebody asks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from litmus.nn.attention.attend import attention_weights
from litmus.nn.core.forward_context import AttentionMask, ForwardContext

LAYER_FIGURES = {
    "attention_entropy": "How spread out attention is: 0 looks at one token, higher looks at many (nats).",
    "first_token_attention": "How much of a query's attention the first token gets, on average: an attention sink "
    "where it is large.",
    "largest_activation": "The largest number in the residual stream after the layer, whatever its sign.",
    "mean_gate": "The mean score of the attention gate: 0 lets nothing through, 1 everything.",
    "processed_share": "The share of tokens that a routed layer processes.",
}
"""What may be left in `ctx.observed`, one number for each layer that has it, and what it says."""


QUERIES = 1024
"""Of longer texts so many queries of each row are looked at, evenly spread, since all of them take T x T weights."""

WEIGHTS = 2**22
"""Attention weights held at one time, at most: 16 MB in fp32. A single query may have more keys than that."""


def observed_queries(count: int, device: torch.device) -> Tensor:
    """Which of `count` queries are looked at: all, or QUERIES of them from the first to the last."""
    if count <= QUERIES:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, QUERIES, device=device, dtype=torch.float64).round().long()


def observe_attention(
    q: Tensor,
    k: Tensor,
    attention_mask: AttentionMask | Callable[[Tensor], Tensor],
    query_scale: Tensor | None,
    ctx: ForwardContext,
) -> None:
    """Leave two figures of softmax(factor · q·k / sqrt(D)) in `ctx.observed`, where there is one.

    visibility may be a function from the numbers of some queries (n,) to their mask (B or 1, 1, n, S), for where the
    mask of all would be large. attention_entropy: entropy of a query's weights in nats. first_token_attention: the
    weight of the first key (an attention sink where it is large; the first token's own is 1). Both are means over rows,
    heads and the queries looked at.
    """
    if ctx.observed is None:
        return
    shared = q.shape[2] // k.shape[2]
    entropy = torch.zeros((), device=q.device, dtype=torch.float32)
    first = torch.zeros_like(entropy)
    queries = observed_queries(q.shape[1], q.device)
    for some in queries.split(max(1, WEIGHTS // (q.shape[0] * k.shape[1]))):
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
