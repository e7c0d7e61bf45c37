"""What multi-token prediction adds to a training step: time against its FLOPs, and peak memory. Writes mtp.md."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
from measure import interleaved, ratio, spread, write_table

import litmus
from litmus.data.sampler import Sampler
from litmus.model import training_flops_per_token
from litmus.runtime.memory import process_peak_bytes
from litmus.training.settings import TrainSettings
from litmus.training.train_step import TrainStep

VOCABULARY, CONTEXT, BATCH = 8192, 256, 8
SPEED = {"dim": 384, "depth": 6, "heads": 6}
MEMORY = {"dim": 768, "depth": 12, "heads": 12}
SIDES = {"standard": {"kind": "next_token"}, "mtp": {"kind": "mtp"}, "mtp_parallel": {"kind": "mtp_parallel"}}


def training(objective: dict[str, str], shape: dict[str, int], rows: int = BATCH) -> tuple[Callable[[], object], float]:
    """One training step of `rows` sequences in bf16, and its FLOPs per token."""
    model = litmus.build("standard", vocab_size=VOCABULARY, context=CONTEXT, objective=objective, **shape)
    flops = training_flops_per_token(model.recipe)
    train_step = TrainStep(model, TrainSettings(batch=rows, context=CONTEXT), "bf16", document_start=0)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 200_000).astype(np.uint16)
    sampler = Sampler(tokens, context=CONTEXT, batch=rows, seed=0)
    number = iter(range(10**9))
    return lambda: train_step.step([sampler.batch(next(number))], 1e-3), flops


def peak(side: str, threads: int) -> float:
    """Peak memory in MB of a process that takes three training steps, the median of three such processes."""
    command = [sys.executable, sys.argv[0], "--threads", str(threads), "--side", side]
    found = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
    return float(statistics.median(found))


def main() -> None:
    """Measure, and write docs/results/mtp.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["nothing", *SIDES], help="only take three steps, and print the peak in MB")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.side:
        if arguments.side != "nothing":
            step, _ = training(SIDES[arguments.side], MEMORY, rows=4)
            step(), step(), step()
        print(json.dumps(process_peak_bytes() / 2**20))
        return
    steps, flops = {}, {}
    for name, objective in SIDES.items():
        steps[name], flops[name] = training(objective, SPEED)
    seconds = interleaved(steps, arguments.rounds)
    base, empty = seconds["standard"], peak("nothing", arguments.threads)
    memory = {name: peak(name, arguments.threads) - empty for name in SIDES}
    rows = []
    for name, taken in seconds.items():
        more = flops[name] / flops["standard"]
        rows.append(
            (
                name,
                f"{BATCH * CONTEXT / statistics.median(taken):,.0f}",
                spread(taken, base),
                f"{more:.2f}",
                f"{ratio(taken, base) / more:.2f}",
                f"{memory[name]:,.0f}",
                f"{100 * (memory[name] / memory['standard'] - 1):+.1f} %",
            )
        )
    write_table(
        "mtp",
        "What predicting one token further costs in training",
        ("objective", "tokens/s", "times standard's time", "times its FLOPs", "time / FLOPs", "peak MB", "more memory"),
        rows,
        [
            f"bf16 with fp32 master weights, vocabulary {VOCABULARY}. Time: {SPEED['depth']} layers of {SPEED['dim']}, "
            f"batch {BATCH} x {CONTEXT}. Memory: {MEMORY['depth']} layers of {MEMORY['dim']}, batch 4 x {CONTEXT}, "
            f"each in a process of its own, less the {empty:,.0f} MB of a process that builds nothing."
        ],
    )


if __name__ == "__main__":
    main()
