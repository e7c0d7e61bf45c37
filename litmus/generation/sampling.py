"""From logits to the next token: greedy, temperature, top-k and top-p, each row by itself."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Sampling(BaseModel):
    """How the next token is drawn. `temperature` 0 takes the likeliest token; filters apply in the order listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(0.8, ge=0)
    top_k: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)


def next_tokens(logits: Tensor, sampling: Sampling, uniform: Tensor) -> Tensor:
    """Draw one token per row from logits (B, V) with one uniform number in [0, 1) per row (B,); returns (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    p = probabilities(logits, sampling)
    drawn = torch.searchsorted(p.cumsum(-1), uniform[:, None].to(p.dtype), right=True)[:, 0]
    last = p.shape[-1] - 1 - p.flip(-1).ne(0).int().argmax(-1)  # rounding may leave the sum just below 1
    return torch.minimum(drawn, last)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The filtered distribution (B, V) in fp64 that `next_tokens` draws from, at a temperature above 0."""
    scores = logits.double() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    p = scores.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        p = _nucleus(p, sampling.top_p)
    return p


def _nucleus(p: Tensor, mass: float) -> Tensor:
    """Keep the smallest set of likeliest tokens with at least `mass` (Holtzman et al. 2020), renormalized."""
    ordered, index = p.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(p).scatter_(-1, index, ordered.masked_fill(before >= mass, 0))
    return kept / kept.sum(-1, keepdim=True)
