"""Mixture of experts: grouped products against the loop that defines them and against a dense feedforward.

The dense one has as many multiplications per token as the chosen experts together. Writes moe.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from measure import interleaved, spread, write_table
from torch import nn

from litmus.model import resolve
from litmus.nn import ForwardContext, MoeConfig, reference_path
from litmus.nn.layers.feedforwards import SwigluConfig

DIM, HIDDEN = 256, 352
TRAINING, DECODING = 4096, 1
SHAPES = ((8, 2), (32, 4))
"""(experts, chosen)"""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def side(module: nn.Module, tokens: int, dtype: torch.dtype, *, fast: bool = True) -> Callable[[], None]:
    """Forward and backward over `tokens` tokens; for a single one only forward."""
    x = torch.randn(1, tokens, DIM).to(dtype).requires_grad_(tokens > 1)
    upstream = torch.randn_like(x)
    ctx = ForwardContext(torch.arange(tokens)[None])

    def run() -> None:
        with reference_path(not fast):
            if tokens == 1:
                with torch.inference_mode():
                    module(x, ctx)
                return
            module(x, ctx).backward(upstream)
        x.grad = None
        module.zero_grad()

    return run


def main() -> None:
    """Measure, and write docs/results/moe.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    layer = resolve("standard", overrides={"dim": DIM, "heads": 4, "depth": 6}).layer_contexts()[0]
    rows = []
    for tokens in (TRAINING, DECODING):
        for name, dtype in DTYPES.items():
            for experts, chosen in SHAPES:
                sparse = MoeConfig(experts=experts, top_k=chosen, hidden=HIDDEN).build(layer).to(dtype)
                dense = SwigluConfig(hidden=chosen * HIDDEN).build(layer).to(dtype)
                sides = {
                    "dense, the same multiplications": side(dense, tokens, dtype),
                    "experts": side(sparse, tokens, dtype),
                    "experts, loop": side(sparse, tokens, dtype, fast=False),
                }
                seconds = interleaved(sides, arguments.rounds * (1 if tokens > 1 else 20))
                for way, taken in seconds.items():
                    rows.append(
                        (
                            f"{tokens:,}",
                            name,
                            f"{chosen} of {experts}",
                            way,
                            f"{1e3 * statistics.median(taken):,.3f}",
                            spread(seconds["experts"], taken),
                            spread(seconds["dense, the same multiplications"], taken),
                        )
                    )
    write_table(
        "moe",
        "A mixture of experts against a dense feedforward",
        ("tokens", "type", "experts", "way", "ms (median)", "speed, experts = 1", "speed, dense = 1"),
        rows,
        [
            f"One layer, {DIM} wide, experts of {HIDDEN}; router included. {TRAINING:,} tokens: forward and backward; "
            "one token: forward only, as in decoding. Speeds are medians of ratios with their middle half."
        ],
    )


if __name__ == "__main__":
    main()
