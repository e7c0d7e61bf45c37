"""Scores of models on the same blocks of text, and the interval of their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litmus.data import TokenData
from litmus.errors import BadInput
from litmus.training.evaluation import scored_windows

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval, over `blocks` blocks of text; infinite for one block."""

    mean: float
    low: float
    high: float
    blocks: int

    def __str__(self) -> str:
        return f"{self.mean:+.4g} ({self.low:+.3g} to {self.high:+.3g})"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not contain zero."""
        return self.low > 0 or self.high < 0


def ratio_interval(sums: Tensor | Sequence[float], sizes: Tensor | Sequence[float]) -> Estimate:
    """The mean of a quantity per unit of size, from its sum and the size of each block, with its 95 % interval.

    r = Σ sum / Σ size, with the variance n / (n - 1) · Σ (sum - r · size)² / (Σ size)² and t(n - 1): the ratio
    estimator (Cochran 1977, Sampling Techniques, 6.4). Blocks are taken to be independent.
    """
    from scipy import special

    y, x = torch.as_tensor(sums, dtype=torch.float64), torch.as_tensor(sizes, dtype=torch.float64)
    count, whole = len(y), float(x.sum())
    mean = float(y.sum()) / whole
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    error = math.sqrt(count / (count - 1) * float((y - mean * x).square().sum())) / whole
    half = -float(special.stdtrit(count - 1, (1 - CONFIDENCE) / 2)) * error
    return Estimate(mean, mean - half, mean + half, count)


@dataclass(frozen=True)
class BlockScores:
    """The score of a model on each of N windows of text: nats, scored tokens and bytes of text, (N,) each."""

    nats: Tensor
    tokens: Tensor
    bytes: Tensor

    def bits_per_byte(self, baseline: BlockScores | None = None) -> Estimate:
        """Bits per byte with its interval; with a baseline on the same windows, the difference to it."""
        nats = self.nats if baseline is None else self.nats - baseline.nats
        return ratio_interval(nats / math.log(2), self.bytes)

    def nats_per_token(self, baseline: BlockScores | None = None) -> Estimate:
        """Nats per token with its interval; with a baseline on the same windows, the difference to it."""
        return ratio_interval(self.nats if baseline is None else self.nats - baseline.nats, self.tokens)

    @property
    def perplexity(self) -> float:
        """exp of the mean nats per token."""
        return math.exp(min(self.nats_per_token().mean, 700.0))


def score_blocks(
    model: Any,
    data: TokenData,
    *,
    context: int,
    batch: int,
    limit_tokens: int | None = None,
    isolate_documents: bool = False,
) -> BlockScores:
    """Score `model`, in evaluation mode, on the held-out windows of `context` tokens that `evaluate` takes."""
    was_training = model.training
    model.eval()
    try:
        windows = scored_windows(
            model,
            data,
            data.held_out,
            context=context,
            batch=batch,
            limit_tokens=limit_tokens,
            isolate_documents=isolate_documents,
        )
        parts = [(rows.losses.double().sum(1), rows.is_scored.sum(1), rows.bytes.sum(1)) for rows in windows]
    finally:
        model.train(was_training)
    nats, tokens, sizes = (torch.cat(column) for column in zip(*parts, strict=True))
    if not sizes.any():
        raise BadInput(f"the {int(tokens.sum())} held-out tokens hold no text to score; give a larger corpus")
    return BlockScores(nats, tokens, sizes)
