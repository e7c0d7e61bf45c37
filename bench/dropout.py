"""What drawing dropout's mask costs: torch's dropout and ours, forward and backward, and within a step.

    OMP_NUM_THREADS=2 python bench/dropout.py

Writes docs/results/dropout.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from unittest import mock

import torch
from measure import interleaved, spread, write_table
from torch import nn
from worker import BASE, PRECISIONS, step_of

from litmus.nn.layers.dropout import Dropout

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure, and write docs/results/dropout.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for precision in PRECISIONS:
        x = torch.randn(16, 1024, 256, dtype=TYPES[precision], requires_grad=True)
        alone = {"torch": alone_of(nn.Dropout(0.1), x), "litmus": alone_of(Dropout(0.1), x)}
        rows.append(row("16 x 1024 x 256, forward and backward", precision, alone, arguments.rounds))
        step = step_of(BASE, precision, 4, 1024)
        whole = {"torch": with_torch(step), "litmus": step}
        rows.append(row(f"a training step of {BASE}, 4 x 1024", precision, whole, arguments.rounds))
    write_table("dropout", "Dropout", ("of", "type", "torch's, ms", "ours, ms", "times faster"), rows)


def alone_of(dropout: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: dropout(x).backward(x)


def with_torch(step: Callable[[], object]) -> Callable[[], object]:
    """The step with torch's way of dropping."""

    def take() -> None:
        with mock.patch.object(Dropout, "forward", nn.Dropout.forward):
            step()

    return take


def row(what: str, precision: str, sides: dict[str, Callable[[], object]], rounds: int) -> list[object]:
    seconds = interleaved(sides, rounds)
    middles = (f"{1e3 * statistics.median(of_side):.1f}" for of_side in seconds.values())
    return [what, precision, *middles, spread(seconds["torch"], seconds["litmus"])]


if __name__ == "__main__":
    main()
