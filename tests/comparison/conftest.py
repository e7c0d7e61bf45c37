"""Builders of small results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from litmus.comparison.results import ComparisonResult, TrialResult
from litmus.training.run.result import CurvePoint


def a_trial(arm: str, seed: int, bpb: float, role: str = "arm", **changes: object) -> TrialResult:
    """A trial that ends at `bpb` after 10 seconds, on a straight curve from 1 bit above; `changes` are JSON keys."""
    curve = [
        CurvePoint(step=s, tokens=100 * s, seconds=float(s), train_loss=2.0, val_loss=2.0, val_bpb=bpb + 1 - s / 10)
        for s in range(11)
    ]
    facts: dict[str, object] = {
        "arm": arm,
        "seed": seed,
        "role": role,
        "lr": 1e-3,
        "parameters": 1_700_000,
        "parameters_non_embedding": 1_200_000,
        "parameters_active": 1_700_000,
        "flops_per_token": 8.7e6,
        "cache_bytes_per_token": 4096,
        "tokens": 1000,
        "steps": 10,
        "train_seconds": 10.0,
        "tokens_per_second": 100.0,
        "peak_memory_bytes": 412_000_000,
        "nats_per_token": bpb * math.log(2) * 3,
        "bits_per_byte": bpb,
        "perplexity": math.exp(bpb * math.log(2) * 3),
        "val_tokens": 500,
        "val_bytes": 1500,
        "loss_by_position": [bpb * 2 + 1 / (1 + t) for t in range(16)],
        "attention_entropy": [2.0, 1.5],
        "curve": curve,
        "sample": f"def {arm}(self):",
    }
    return TrialResult.model_validate(facts | changes)


def a_result(scores: dict[str, Sequence[float]], again: Sequence[float] = (), **terms: object) -> ComparisonResult:
    """A comparison of arms with these bits per byte for seeds 0, 1, ...; the first arm is the baseline.

    `again` are the scores of the baseline trained again (the noise trials).
    """
    arms = list(scores)
    trials = [a_trial(arm, seed, bpb) for arm in arms for seed, bpb in enumerate(scores[arm])]
    trials += [a_trial(arms[0], seed, bpb, "noise") for seed, bpb in enumerate(again)]
    facts = {"name": "a comparison", "baseline": arms[0], "arms": arms, "budget": "10 steps", "trials": trials}
    return ComparisonResult.model_validate(facts | terms)


@pytest.fixture(scope="session")
def trial() -> Callable[..., TrialResult]:
    return a_trial


@pytest.fixture(scope="session")
def result() -> Callable[..., ComparisonResult]:
    return a_result
