"""Torch's int4 kernel for CPUs against its int8 kernel and bf16: the product of one token with a weight.

Writes its page in docs/results.
"""

from __future__ import annotations

import argparse

import torch
from measure import interleaved, spread, write_table
from torch.nn import functional as F

SHAPES = ((1536, 576), (2048, 2048), (4096, 4096))
"""(outputs, inputs); the first is a feedforward's of SmolLM2-135M."""
GROUP = 64


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for outputs, inputs in SHAPES:
        x, weight = torch.randn(1, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
        bytes8, scale8 = torch.randint(-127, 128, weight.shape, dtype=torch.int8), torch.rand(outputs).bfloat16()
        codes = torch.randint(16, weight.shape, dtype=torch.int32)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scale4 = torch.rand(inputs // GROUP, outputs, 2).bfloat16()
        seconds = interleaved(
            {
                "bf16": lambda: F.linear(x, weight),  # noqa: B023
                "int8": lambda: torch.ops.aten._weight_int8pack_mm(x, bytes8, scale8),  # noqa: B023
                "int4": lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scale4),  # noqa: B023
            },
            arguments.rounds,
        )
        times = (f"{1000 * sorted(side)[len(side) // 2]:.2f}" for side in seconds.values())
        rows.append([f"{outputs} x {inputs}", *times, spread(seconds["int8"], seconds["int4"])])
        print(rows[-1], flush=True)
    write_table(
        "int4_kernel",
        "Torch's int4 kernel",
        ["weight", "bf16, ms", "int8, ms", "int4, ms", "int4 faster than int8, times"],
        rows,
        (
            f"One token. int4 in groups of {GROUP} (`_weight_int4pack_mm_for_cpu`), int8 by channel, as `--int8`",
            "(`_weight_int8pack_mm`); medians, and the median ratio with the middle half of the rounds.",
        ),
    )


if __name__ == "__main__":
    main()
