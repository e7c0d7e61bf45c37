"""Figures that layers leave about themselves when somebody asks."""

from __future__ import annotations

import torch
from torch import Tensor

from litmus.nn.attend import attention_weights
from litmus.nn.step import Step, Visibility

LAYER_FIGURES = {
    "attention_entropy": "How spread out attention is: 0 looks at one token, higher looks at many (nats).",
    "first_token_attention": "How much of a query's attention the first token gets, on average: an attention sink "
    "where it is large.",
    "largest_activation": "The largest number in the residual stream after the layer, whatever its sign.",
    "mean_gate": "The mean score of the attention gate: 0 lets nothing through, 1 everything.",
    "processed_share": "The share of tokens that a routed layer processes.",
}
"""What may be left in `step.observed`, one number for each layer that has it, and what it says."""


def observe_attention(q: Tensor, k: Tensor, visibility: Visibility, factor: Tensor | None, step: Step) -> None:
    """Leave two figures of softmax(factor · q·k / sqrt(D)) in `step.observed`, where there is one.

    It takes the T x T weights that fast attention never forms.
    attention_entropy: entropy of a query's weights in nats. first_token_attention: the weight of the first key (an
    attention sink where it is large; the first token's own is 1). Both are means over rows, heads and queries.
    """
    if step.observed is None:
        return
    shared = q.shape[2] // k.shape[2]
    entropy = torch.zeros((), device=q.device, dtype=torch.float32)
    first = torch.zeros_like(entropy)
    for head in range(q.shape[2]):  # one at a time, so that T x T is held once
        one = slice(head, head + 1)
        part = factor if factor is None or factor.shape[-1] == 1 else factor[..., one]
        weights = attention_weights(q[:, :, one], k[:, :, head // shared, None], visibility, part)
        entropy = entropy + torch.special.entr(weights).sum(-1).mean().float()
        first = first + weights[..., 0].mean().float()
    step.observed.setdefault("attention_entropy", []).append(entropy / q.shape[2])
    step.observed.setdefault("first_token_attention", []).append(first / q.shape[2])
