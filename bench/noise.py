"""How noisy a score is by learning rate and size, and where the variance of a paired difference comes from.

    python bench/noise.py --runs noise-runs            # about an hour on one core; continues where it was
    python bench/noise.py --runs noise-runs --jobs 2

A training has a start (the seed of its weights) and an order (the seed of its batches).
Writes its page in docs/results.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

import measure
import numpy as np

from litmus.comparison.compare import DEFAULT_TRAINING
from litmus.comparison.executors.local import run_trials
from litmus.comparison.results import TrialResult
from litmus.comparison.trial import METHOD, TrialSpec
from litmus.data import DataSettings, prepare
from litmus.model import resolve

RATES = {"tiny": (5e-4, 1e-3, 1.5e-3, 3e-3), "mini": (5e-4, 1e-3, 3e-3)}
PAIRS = ("nope", "ssmax", "gated")
"""Each is compared with standard."""

RATE = 1e-3
STARTS, ORDERS = 2, 3
OTHER_START = 1_000_003


def spec(arm: str, size: str, rate: float, start: int, order: int) -> TrialSpec:
    """One training; the arm's name tells trials of different sizes, rates and starts apart."""
    data = DataSettings(corpus="stdlib")
    tokens = prepare(data)
    training = DEFAULT_TRAINING.model_copy(
        update={
            "lr": rate,
            "seed": order + start * OTHER_START,
            "data_seed": order,
            "threads": 1,
            "precision": "fp32",
            "context": 128,
        }
    )
    recipe = resolve(arm, size=size, overrides={"context": 128, "vocab_size": tokens.tokenizer.vocab_size})
    return TrialSpec(
        arm=f"{arm}-{size}-{rate:g}-start-{start}",
        role="arm",
        recipe=recipe.to_dict(),
        data=data,
        data_fingerprint=tokens.fingerprint,
        training=training,
        prompt="",
        method=METHOD,
    )


def grid(runs: Path, jobs: int, arm: str, size: str, rate: float) -> np.ndarray:
    """Bits per byte (starts, orders) of an arm."""
    specs = [spec(arm, size, rate, start, order) for start in range(STARTS) for order in range(ORDERS)]
    results: Iterable[TrialResult] = run_trials(specs, runs, jobs=jobs, on_event=lambda trial, event: None)
    scores = [result.run.evaluation.bits_per_byte for result in results]
    print(f"{arm}, {size}, learning rate {rate:g}: {fmean(scores):.4f} bits per byte", flush=True)
    return np.array(scores).reshape(STARTS, ORDERS)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def components(differences: np.ndarray) -> tuple[float, float, float]:
    """Standard deviations due to start, order and the rest of differences (starts, orders): two-way random effects."""
    starts, orders = differences.shape
    by_start = differences.mean(1, keepdims=True)
    by_order = differences.mean(0, keepdims=True)
    rest = differences - by_start - by_order + differences.mean()
    residual = (rest**2).sum() / ((starts - 1) * (orders - 1))
    start = max(0.0, float(by_start.var(ddof=1)) - residual / orders)
    order = max(0.0, float(by_order.var(ddof=1)) - residual / starts)
    return start**0.5, order**0.5, float(residual**0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the trainings, kept")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    folder = given.runs / "noise"
    scores = {(size, rate): grid(folder, given.jobs, "standard", size, rate) for size in RATES for rate in RATES[size]}
    rates = [
        [
            size,
            f"{rate:g}",
            f"{table.mean():.4f}",
            f"{stdev(table.ravel().tolist()):.4f}",
            f"{rms(table[0] - table[1]):.4f}",
        ]
        for (size, rate), table in scores.items()
    ]
    pairs = []
    for arm in PAIRS:
        other, baseline = grid(folder, given.jobs, arm, "tiny", RATE), scores["tiny", RATE]
        shared, apart = other - baseline, other - baseline[::-1]
        pairs.append(
            [
                arm,
                f"{shared.mean():+.4f}",
                *(f"{part:.4f}" for part in components(shared)),
                f"{stdev(shared.ravel().tolist()):.4f}",
                f"{stdev(apart.ravel().tolist()):.4f}",
                f"{stdev((other - np.roll(baseline, 1, 1)).ravel().tolist()):.4f}",
            ]
        )
    steps = DEFAULT_TRAINING.budget
    notes = [
        f"`standard` on `stdlib`, {steps} of {DEFAULT_TRAINING.batch} x 128 tokens: {STARTS} starts x {ORDERS} orders.",
        "",
        f"## Differences from `standard` at size tiny and learning rate {RATE:g}, in bits per byte",
        "",
        *measure.table(
            [
                "arm",
                "difference",
                "sd by start",
                "sd by order",
                "sd of the rest",
                "sd of pairs: same start and order",
                "same order",
                "same start",
            ],
            pairs,
        ),
        "",
        "The last three columns pair each training with one of `standard`. The rest is what neither start nor order",
        "explains alone. Estimates from six pairs are within a factor of two.",
    ]
    measure.write_table(
        "noise",
        "Noise of scores and of paired differences",
        ["size", "learning rate", "mean, bpb", "sd of scores", "rms difference of two starts"],
        rates,
        notes,
    )


if __name__ == "__main__":
    main()
