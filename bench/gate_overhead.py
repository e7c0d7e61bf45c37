"""Measures the cost of attention output gates in a training step. Writes gate_overhead.md."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import interleaved, spread, write_table

import litmus
from litmus.data.sampler import Sampler
from litmus.model import training_flops_per_token
from litmus.training.settings import TrainSettings
from litmus.training.train_step import TrainStep

VOCABULARY, CONTEXT, BATCH = 8192, 256, 8
SHAPE = {"dim": 384, "depth": 6, "heads": 6}
SIDES: dict[str, dict[str, Any] | None] = {
    "no gate": None,
    "headwise": {"kind": "headwise"},
    "elementwise": {"kind": "elementwise"},
}


def training(gate: dict[str, Any] | None, precision: str, shape: dict[str, int]) -> tuple[Callable[[], object], float]:
    """A function that runs one training step, and the training FLOPs per token."""
    overrides = {} if gate is None else {"mixer.gate": gate}
    model = litmus.build("standard", vocab_size=VOCABULARY, context=CONTEXT, overrides=overrides, **shape)
    train_step = TrainStep(model, TrainSettings(batch=BATCH, context=CONTEXT), precision, document_start=0)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 200_000).astype(np.uint16)
    sampler = Sampler(tokens, context=CONTEXT, batch=BATCH, seed=0)
    number = iter(range(10**9))
    return lambda: train_step.step([sampler.batch(next(number))], 1e-3), training_flops_per_token(model.recipe)


def main() -> None:
    """Measure, and write docs/results/gate_overhead.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=SHAPE["dim"])
    parser.add_argument("--depth", type=int, default=SHAPE["depth"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = {**SHAPE, "dim": arguments.dim, "depth": arguments.depth}
    rows = []
    for precision in ("fp32", "bf16"):
        steps, flops = {}, {}
        for name, gate in SIDES.items():
            steps[name], flops[name] = training(gate, precision, shape)
        seconds = interleaved(steps, arguments.rounds)
        for name, taken in seconds.items():
            rows.append(
                (
                    precision,
                    name,
                    f"{BATCH * CONTEXT / statistics.median(taken):,.0f}",
                    spread(taken, seconds["no gate"], digits=3),
                    f"{flops[name] / flops['no gate']:.3f}",
                )
            )
    write_table(
        "gate_overhead",
        "What a gate on attention adds to a training step",
        ("type", "gate", "tokens/s (median)", "times the step without (middle half)", "times its FLOPs"),
        rows,
        [
            f"{shape['depth']} layers of {shape['dim']}, {shape['heads']} heads, vocabulary {VOCABULARY}, batch "
            f"{BATCH} x {CONTEXT}. A step is forward, backward and optimizer."
        ],
    )


if __name__ == "__main__":
    main()
