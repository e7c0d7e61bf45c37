"""Attention of queries over keys and values: fused, by plain matmuls, and by its definition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.core.batch import use_reference
from litmus.nn.core.forward_context import AttentionMask

MAX_MATMUL_QUERIES = 512
"""Queries per row up to which attention in training, in bf16 on a CPU, is faster by plain matmuls than fused; for more
queries the T x T weights cost more than they save."""

MIN_FUSED_QUERIES = 4
"""Queries per head from which fused attention in bf16 on a CPU is fast."""


def attend(q: Tensor, k: Tensor, v: Tensor, attention_mask: AttentionMask, query_scale: Tensor | None = None) -> Tensor:
    """softmax(query_scale · q·k / sqrt(D)) v for q (B, T, H, D), k (B, S, G, D), v (B, S, G, E); returns (B, T, H, E).

    H / G query heads share each of the G key-value heads (Ainslie et al. 2023, arXiv 2305.13245).
    query_scale (B or 1, T, H or 1) multiplies the scores of each query (SSMax); None means 1.
    """
    if use_reference():
        return _reference(q, k, v, attention_mask, query_scale)
    if query_scale is not None:
        q = (q * query_scale[..., None]).to(q.dtype)  # exact: the scale is per query, not per key
    is_masked = isinstance(attention_mask, Tensor) or attention_mask == "causal"
    if is_masked and q.device.type == "cpu" and q.dtype == torch.bfloat16 and _trains(q):
        return _by_matmuls(q, k, v, attention_mask)
    return _fused(q, k, v, attention_mask)


def attention_scores(q: Tensor, k: Tensor, query_scale: Tensor | None = None) -> Tensor:
    """Scores query_scale · q·k / sqrt(D) of q (B, T, H, D) and k (B, S, G, D): (B, H, T, S) in at least fp32."""
    heads, groups = q.shape[2], k.shape[2]
    exact = torch.promote_types(q.dtype, torch.float32)
    k = k.repeat_interleave(heads // groups, dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q.to(exact), k.to(exact)) / q.shape[-1] ** 0.5
    if query_scale is not None:
        scores = scores * query_scale.transpose(1, 2)[..., None].to(exact)
    return scores


def attention_weights(q: Tensor, k: Tensor, attention_mask: AttentionMask, query_scale: Tensor | None) -> Tensor:
    """Attention weights (B, H, T, S) by their definition, in at least fp32."""
    return _softmax(attention_scores(q, k, query_scale), attention_mask)


def attend_by_scores(scores: Tensor, v: Tensor, attention_mask: AttentionMask) -> Tensor:
    """softmax of the masked scores (B, H, T, S), times values v (B, S, G, E); returns (B, T, H, E)."""
    weights = _softmax(scores, attention_mask)
    values = v.repeat_interleave(scores.shape[1] // v.shape[2], dim=2)
    return torch.einsum("bhts,bshd->bthd", weights, values.to(weights.dtype)).to(v.dtype)


def _softmax(scores: Tensor, attention_mask: AttentionMask) -> Tensor:
    if attention_mask == "causal":
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, -torch.inf)
    elif isinstance(attention_mask, Tensor):
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    return scores.softmax(-1)


def _reference(q: Tensor, k: Tensor, v: Tensor, attention_mask: AttentionMask, query_scale: Tensor | None) -> Tensor:
    return attend_by_scores(attention_scores(q, k, query_scale), v, attention_mask).to(q.dtype)


def _fused(q: Tensor, k: Tensor, v: Tensor, attention_mask: AttentionMask) -> Tensor:
    scale, values = q.shape[-1] ** -0.5, v.shape[-1]
    if q.device.type == "cpu" and values != q.shape[-1] and q.dtype != torch.float64:
        # Flash attention on a CPU needs keys and values of one width. Zeros change no product, and padding with them
        # is much faster than attention without flash. In fp64 FLOPs are counted, to which zeros would add.
        widest = max(values, q.shape[-1])
        q, k, v = (F.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = attention_mask if isinstance(attention_mask, Tensor) else None
    if q.device.type == "cpu" and q.shape[2] == 1:
        out = _one_query(q, k, v, mask, scale)
    else:
        causal, grouped = mask is None and attention_mask == "causal", q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped, scale=scale)
    return out.transpose(1, 2)[..., :values]


def _one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Fused attention on a CPU of one query per row, q (B, H, 1, D), over k and v (B, G, S, D); (B, H, 1, D).

    The H / G heads that share keys are treated as queries of one head, so that keys are read once. In bf16 they are
    padded to MIN_FUSED_QUERIES: fewer queries take about three times as long (bench/decode_attention.py).
    """
    heads, groups = q.shape[1], k.shape[1]
    q = q.reshape(len(q), groups, heads // groups, -1)
    if q.dtype == torch.bfloat16:
        q = F.pad(q, (0, 0, 0, max(0, MIN_FUSED_QUERIES - q.shape[2])))
    out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    return out[:, :, : heads // groups].flatten(1, 2)[:, :, None]


def _trains(q: Tensor) -> bool:
    return q.requires_grad and torch.is_grad_enabled() and q.shape[1] <= MAX_MATMUL_QUERIES


def _by_matmuls(q: Tensor, k: Tensor, v: Tensor, attention_mask: AttentionMask) -> Tensor:
    """Attention by matmuls with the weights in memory, in the dtype of q; "causal" needs T = S."""
    batch, length, heads, width = q.shape
    keys = k.shape[1]
    k, v = (x.repeat_interleave(heads // x.shape[2], dim=2) if x.shape[2] != heads else x for x in (k, v))
    q, k, v = (x.transpose(1, 2).reshape(batch * heads, x.shape[1], -1) for x in (q, k, v))
    bias = torch.full((length, keys), -torch.inf, device=q.device, dtype=q.dtype)
    if isinstance(attention_mask, Tensor):  # (B or 1, 1, T, S)
        bias = bias.where(~attention_mask, 0).expand(batch, heads, length, keys).reshape(-1, length, keys)
    else:
        bias = bias.triu(1).expand(batch * heads, length, keys)
    scores = torch.baddbmm(bias, q, k.mT, alpha=width**-0.5)
    return (scores.softmax(-1) @ v).view(batch, heads, length, -1).transpose(1, 2)
