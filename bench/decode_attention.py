"""Attention of one new token over cached keys and values on a CPU: how the cache lies in memory, and how it is read.

Writes decode_attention.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from measure import interleaved, spread, write_table
from torch import Tensor
from torch.nn import functional as F

from litmus.nn import attend
from litmus.nn.core.cache import heads_buffer

SHAPES = ((1, 8, 8, 512), (1, 8, 8, 4096), (1, 8, 2, 4096), (8, 8, 8, 512))
WIDTH = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ways(batch: int, heads: int, groups: int, length: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """One query of `heads` heads over `length` tokens of `groups` key-value heads, from caches larger than that."""
    q = torch.randn(batch, 1, heads, WIDTH).to(dtype)
    by_head = [heads_buffer(batch, length + 64, groups, WIDTH, q.device, dtype).normal_() for _ in range(2)]
    by_slot = [buffer.contiguous() for buffer in by_head]

    def plain(buffers: list[Tensor]) -> Tensor:
        k, v = (buffer[:, :length].transpose(1, 2) for buffer in buffers)
        return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, enable_gqa=heads != groups)

    return {
        "slot by slot, fused attention as it is": lambda: plain(by_slot),
        "head by head, fused attention as it is": lambda: plain(by_head),
        "slot by slot, attend": lambda: attend(q, *(buffer[:, :length] for buffer in by_slot), "all"),
        "head by head, attend": lambda: attend(q, *(buffer[:, :length] for buffer in by_head), "all"),
    }


@torch.inference_mode()
def main() -> None:
    """Measure, and write docs/results/decode_attention.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, dtype in DTYPES.items():
        for shape in SHAPES:
            seconds = interleaved(ways(*shape, dtype), arguments.rounds, warmup=5)
            ours = seconds["head by head, attend"]
            for way, taken in seconds.items():
                batch, heads, groups, length = shape
                what = f"{batch} x {length:,}, {heads} heads, {groups} of keys"
                rows.append((name, what, way, f"{1e6 * statistics.median(taken):,.0f}", spread(taken, ours)))
    write_table(
        "decode_attention",
        "Attention of one new token",
        ("type", "rows x cached tokens", "cache, and how it is read", "us (median)", "times ours (middle half)"),
        rows,
        [f"Heads of {WIDTH}. `attend` passes the heads that share keys as queries of one head, at least 4 in bf16."],
    )


if __name__ == "__main__":
    main()
