"""Answers of a model to generated examples: how many are right, and their loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.data.sampler import NOT_SCORED
from litmus.data.tokens.token_files import Examples

TEST_EXAMPLES = 512
"""Test examples of each length."""

TEST_SEED, TEST_BATCH = 0, 64


@dataclass(frozen=True)
class Answers:
    """Scores of a model on the test examples. nats: of all answers. right: the share of right ones by test length.

    loss_by_position: mean nats at each position of the longest examples that has an answer. sample: inputs (B, T).
    """

    nats: float
    count: int
    right: dict[int, float]
    loss_by_position: list[float]
    sample: Tensor


@torch.no_grad()
def score_answers(model: Any, examples: Examples, limit_tokens: int | None = None) -> Answers:
    """Score `model`, in evaluation mode, on the test examples of each length, or on about `limit_tokens` tokens.

    An answer is right if it has the largest logit. The examples are the same for all models.
    """
    total, count, right = 0.0, 0, {}
    for length in examples.test_lengths:
        nats = torch.zeros(length, dtype=torch.float64)
        scored = torch.zeros(length, dtype=torch.int64)
        hits = 0
        for inputs, targets in _batches(examples, length, limit_tokens):
            logits = model(inputs.to(next(model.parameters()).device)).float().cpu()
            nats += F.cross_entropy(logits.mT, targets, ignore_index=NOT_SCORED, reduction="none").double().sum(0)
            scored += (targets != NOT_SCORED).sum(0)
            hits += int((logits.argmax(-1) == targets).sum())
        right[length] = hits / int(scored.sum())
        total, count = total + float(nats.sum()), count + int(scored.sum())
    occupied = scored > 0
    return Answers(total, count, right, (nats[occupied] / scored[occupied]).tolist(), inputs[:16])


def _batches(examples: Examples, length: int, limit_tokens: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    number = TEST_EXAMPLES if limit_tokens is None else max(1, min(TEST_EXAMPLES, limit_tokens // length))
    for first in range(0, number, TEST_BATCH):
        inputs, targets = examples.batch(TEST_SEED, "test", first // TEST_BATCH, TEST_BATCH, length)
        yield torch.from_numpy(inputs[: number - first]), torch.from_numpy(targets[: number - first])
