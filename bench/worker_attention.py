"""Attention of one query in k against full causal attention, forward and backward. Writes worker_attention.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measure import interleaved, spread, write_table
from torch import Tensor

from litmus.nn import ForwardContext, attend
from litmus.nn.attention.spaced import attend_at, visible
from litmus.nn.worker.block import workers
from litmus.nn.worker.streams import sampled

HEADS, WIDTH, INTERVAL = 4, 64, 4
SIDES = ("full causal", "one product, masked", "workers", "workers, other phase in each row", "queries with own keys")


def sides(batch: int, length: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Forward and backward of every side, on the same keys and values."""
    ctx = ForwardContext(torch.arange(length).expand(batch, -1))
    at_end = sampled(ctx, workers(ctx, INTERVAL), INTERVAL).groups[0].queries
    phases = torch.arange(batch)[:, None] % INTERVAL
    anywhere = sampled(ctx, workers(ctx, INTERVAL, phases), INTERVAL).groups[0].queries

    def numbers(count: int) -> Tensor:
        return torch.randn(batch, count, HEADS, WIDTH, dtype=dtype, requires_grad=True)

    k, v, every, some, own_k, own_v = (numbers(n) for n in (length, length, length, *[length // INTERVAL] * 3))

    def passed(read: Callable[[], Tensor], *inputs: Tensor) -> Callable[[], object]:
        upstream = torch.randn_like(read())
        return lambda: torch.autograd.grad(read(), inputs, upstream)

    def masked() -> Tensor:
        return attend(some, k, v, visible(at_end, length, ctx, own=False))

    return {
        SIDES[0]: passed(lambda: attend(every, k, v, "causal"), every, k, v),
        SIDES[1]: passed(masked, some, k, v),
        SIDES[2]: passed(lambda: attend_at(at_end, some, k, v, ctx), some, k, v),
        SIDES[3]: passed(lambda: attend_at(anywhere, some, k, v, ctx), some, k, v),
        SIDES[4]: passed(lambda: attend_at(anywhere, some, k, v, ctx, own=(own_k, own_v)), some, k, v, own_k, own_v),
    }


def main() -> None:
    """Measure, and write docs/results/worker_attention.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 8192])
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for length in arguments.lengths:
        for dtype in (torch.float32, torch.bfloat16):
            taken = interleaved(sides(arguments.batch, length, dtype), arguments.rounds)
            full = taken[SIDES[0]]
            name = str(dtype).removeprefix("torch.")
            rows.append((f"{length:,}", name, f"{1e3 * min(full):.1f}", *(spread(full, taken[s]) for s in SIDES[1:])))
    write_table(
        "worker_attention",
        "Attention of one query in four",
        ("tokens", "type", "full causal, ms", *SIDES[1:]),
        rows,
        [
            f"Times faster than full causal fused attention, forward and backward, batch {arguments.batch}, {HEADS} "
            f"heads of {WIDTH}, k = {INTERVAL}: median over rounds and the middle half. {INTERVAL} would be ideal. "
            "The last column is for training's other queries, which read a key of their own besides.",
        ],
    )


if __name__ == "__main__":
    main()
