"""How the time of window attention grows with the number of tokens, against full causal attention.

Writes window_scaling.md. The exponent of time over length is fitted by least squares on logarithms.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from measure import interleaved, spread, write_table
from torch import Tensor

from litmus.nn import ForwardContext, Keys, Window, attend, attend_window

LENGTHS = (1024, 2048, 4096, 8192, 16384)
HEADS, WIDTH, WINDOW, SINKS = 4, 64, 256, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def side(length: int, dtype: torch.dtype, window: Window | None) -> Callable[[], None]:
    """Forward and backward of attention alone over one row of `length` tokens; full causal without a window."""
    q, k, v = (torch.randn(1, length, HEADS, WIDTH).to(dtype).requires_grad_() for _ in range(3))
    positions, upstream = torch.arange(length)[None], torch.randn(1, length, HEADS, WIDTH).to(dtype)

    def read() -> Tensor:
        if window is None:
            return attend(q, k, v, "causal")
        return attend_window(
            q, k, v, Keys(positions), window, ForwardContext(positions)
        )  # its masks are made anew each time

    def run() -> None:
        torch.autograd.grad(read(), (q, k, v), upstream)

    return run


def exponent(seconds: dict[int, float]) -> float:
    """The slope of log time over log length."""
    x, y = ([math.log(value) for value in values] for values in (seconds, seconds.values()))
    return statistics.linear_regression(x, y).slope


def main() -> None:
    """Measure, and write docs/results/window_scaling.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lengths = [length for length in LENGTHS if length <= arguments.longest]
    rows, notes = [], []
    for name, dtype in DTYPES.items():
        ways = {"full": None, "window": Window(WINDOW), "window and sinks": Window(WINDOW, SINKS)}
        medians: dict[str, dict[int, float]] = {way: {} for way in ways}
        for length in lengths:
            sides = {way: side(length, dtype, window) for way, window in ways.items()}
            seconds = interleaved(sides, arguments.rounds)
            for way, taken in seconds.items():
                medians[way][length] = statistics.median(taken)
                milliseconds = f"{1e3 * medians[way][length]:,.1f}"
                rows.append((name, f"{length:,}", way, milliseconds, spread(seconds["full"], taken)))
        for way, found in medians.items():
            notes.append(f"- {name}, {way}: time grows with length to the power of {exponent(found):.2f}")
    write_table(
        "window_scaling",
        "Window attention by length",
        ("type", "tokens", "attention", "ms (median)", "speed, full = 1 (middle half)"),
        rows,
        [
            f"Attention alone, forward and backward, one row, {HEADS} heads of {WIDTH}, a window of {WINDOW}, "
            f"{SINKS} sinks. Exponents fitted over {lengths[0]:,} to {lengths[-1]:,} tokens:",
            "",
            *notes,
        ],
    )


if __name__ == "__main__":
    main()
