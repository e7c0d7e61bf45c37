"""What the training loop costs beside forward, backward and optimizer: the whole of `train` with its usual settings."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import write_table

from litmus.data import DataSettings
from litmus.data.sampler import SampledBatch
from litmus.model import resolve
from litmus.training import TrainSettings
from litmus.training.train_step import StepStats, TrainStep
from litmus.training.trainer import train_run

SHAPE = {"dim": 384, "depth": 6, "heads": 6, "context": 256}


def main() -> None:
    """Measure, and write docs/results/loop_overhead.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    inside = 0.0
    plain_step = TrainStep.step

    def timed_step(self: TrainStep, batches: Sequence[SampledBatch], lr: float) -> StepStats:
        nonlocal inside
        start = time.perf_counter()
        stats = plain_step(self, batches, lr)
        inside += time.perf_counter() - start
        return stats

    TrainStep.step = timed_step  # type: ignore[method-assign]
    rows = []
    for precision in ("fp32", "bf16"):
        inside = 0.0
        settings = TrainSettings(
            budget=f"{arguments.steps} steps",
            batch=8,
            precision=precision,
            threads=arguments.threads,
            evaluate_tokens=4096,
        )
        recipe = resolve("standard", overrides=SHAPE)
        with tempfile.TemporaryDirectory() as folder:
            result = train_run(recipe, DataSettings(tokenizer="bpe-8192"), settings, Path(folder) / "run")
        overhead = 100 * (result.train_seconds - inside) / result.train_seconds
        rows.append((precision, result.steps, f"{1e3 * result.train_seconds / result.steps:,.1f}", f"{overhead:.2f} %"))
    torch.set_num_threads(arguments.threads)
    write_table(
        "loop_overhead",
        "Overhead of the training loop",
        ("precision", "steps", "ms per step", "outside forward, backward and optimizer"),
        rows,
        ["`standard`, 6 layers, 384 wide, vocabulary 8192, batch 8 x 256; time that counts as training time in a run."],
    )


if __name__ == "__main__":
    main()
