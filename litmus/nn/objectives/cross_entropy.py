"""Head and cross-entropy in chunks, so that the logits of a whole batch are never in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from litmus.nn.core.batch import IGNORED, use_reference

MIN_CHUNK_ROWS = 256
"""Minimum rows of a chunk; with fewer, accumulating the gradient of the weight takes longer than chunks save."""
MAX_CHUNK_LOGITS = 4_000_000
"""Logits of a chunk: about 16 MB in fp32, near the size of CPU caches and still a large matmul on a GPU."""


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy in nats of the head's logits hidden·weightᵀ + bias against the scored targets.

    hidden (N, dim), weight (V, dim), bias (V,), targets (N,) with -100 for tokens that are not scored. With label
    smoothing e the target distribution is (1 - e)·onehot + e / V (Szegedy et al. 2016, arXiv 1512.00567). Without
    scored targets the result is 0.
    """
    if use_reference():
        logits = F.linear(hidden, weight, bias).to(torch.promote_types(hidden.dtype, torch.float32))
        total = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
        return total / (targets != IGNORED).sum().clamp(min=1)
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    return _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, label_smoothing)


def scored_only(hidden: Tensor, targets: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The hidden states (most, dim) and targets (most,) of the scored among (N, dim) and (N,), -100 after the last.

    `most` is at least their number. The shape depends on no value, so that a GPU is not waited for.
    """
    scored = targets != IGNORED
    index = torch.nonzero_static(scored, size=most).squeeze(1)  # -1 after the last
    return hidden[index], targets[index].where(index >= 0, IGNORED)


def head_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """`cross_entropy` for any head from hidden states (N, dim) to logits (N, V), which backward recomputes."""

    def summed(h: Tensor, target: Tensor) -> Tensor:
        logits = head(h).to(torch.promote_types(h.dtype, torch.float32))
        return F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)

    count = (targets != IGNORED).sum().clamp(min=1)
    if use_reference():
        return summed(hidden, targets) / count
    chunks = zip(hidden.split(MIN_CHUNK_ROWS), targets.split(MIN_CHUNK_ROWS), strict=True)
    return torch.stack([checkpoint(summed, *chunk, use_reentrant=False) for chunk in chunks]).sum() / count


@torch.no_grad()
def token_cross_entropy(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (N,) of each target in nats and at least fp32, 0 where it is -100; without gradient."""
    nats = []
    weight = getattr(head, "weight", None)
    rows = MIN_CHUNK_ROWS if weight is None else _chunk_rows(weight)
    like = next(head.parameters(), hidden).dtype
    for h, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = head(h) if h.dtype == like else torch.func.functional_call(head, _cast(head, h.dtype), (h,))
        nats.append(F.cross_entropy(logits.to(torch.promote_types(h.dtype, torch.float32)), target, reduction="none"))
    return torch.cat(nats)


def _cast(head: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The head's parameters converted to `dtype`."""
    return {name: parameter.to(dtype) for name, parameter in head.named_parameters()}


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradient of each chunk in the forward pass, while its logits are in memory."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, label_smoothing: float
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        w = weight.to(hidden.dtype)
        b = None if bias is None else bias.to(hidden.dtype)
        scored = targets != IGNORED
        share = 1.0 / scored.sum().clamp(min=1).to(exact)  # weight of one token in the mean
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=exact, device=weight.device) if wants_weight else None
        grad_bias = torch.zeros(weight.shape[0], dtype=exact, device=weight.device) if wants_bias else None
        # Chunks are accumulated in fp32; `piece` is a reused buffer for the matmul results of lower precision.
        piece = torch.empty_like(weight, dtype=hidden.dtype) if wants_weight and hidden.dtype != exact else None
        total = torch.zeros((), dtype=exact, device=hidden.device)
        rows = _chunk_rows(weight)
        for begin in range(0, len(hidden), rows):
            chunk = slice(begin, begin + rows)
            h, is_scored = hidden[chunk], scored[chunk, None]
            target = targets[chunk].where(scored[chunk], 0)[:, None]
            log_p = F.linear(h, w, b).to(exact).log_softmax(-1)
            nats = -(1 - label_smoothing) * log_p.gather(1, target)
            if label_smoothing:
                nats = nats - label_smoothing * log_p.mean(-1, keepdim=True)
            total += nats.masked_fill(~is_scored, 0).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            grad = log_p.exp_()  # softmax minus target distribution; overwrites log_p
            if label_smoothing:
                grad -= label_smoothing / len(weight)
            grad.scatter_add_(1, target, torch.full_like(nats, label_smoothing - 1))
            grad *= is_scored * share
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, w, out=grad_hidden[chunk])
            if grad_weight is not None and piece is None:
                torch.addmm(grad_weight, grad.T, h, out=grad_weight)  # an operator whose FLOPs torch counts
            elif grad_weight is not None:
                grad_weight += torch.mm(grad.T, h, out=piece)
        ctx.save_for_backward(
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        return total * share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        (scale,) = upstream
        return (
            None if hidden is None else hidden * scale.to(hidden.dtype),
            None if weight is None else weight * scale.to(weight.dtype),
            None if bias is None else bias * scale.to(bias.dtype),
            None,
            None,
        )


def _chunk_rows(weight: Tensor) -> int:
    return max(MIN_CHUNK_ROWS, MAX_CHUNK_LOGITS // len(weight))
