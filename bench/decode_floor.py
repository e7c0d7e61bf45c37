"""Decoding of a model larger than the last-level cache, against what reading its weights and cache must take.

The floor is (weight bytes + cached bytes) / bandwidth, where the bandwidth is measured beside it by summing a large
tensor. Writes decode_floor.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from measure import interleaved, ratio, spread, write_table

import litmus
from litmus.compression.quantization import QuantizeSettings, quantize
from litmus.generation import Engine, Request, Sampling
from litmus.generation.integer_linear import INT4_GROUPS
from litmus.model import Decoder

READ_BYTES = 2**29
WAYS = {
    "fp32": ({"precision": "fp32"}, 4, 4),
    "bf16": ({"precision": "bf16"}, 2, 2),
    "int8": ({"int8": True}, 1, 1),
    "int4": ({"int4": True}, 0.5 + 4 / INT4_GROUPS[0], 1),
}
"""How the engine is told, and the bytes of a linear weight and of one of the head's."""


def decoding(model: Decoder, options: dict[str, object], batch: int, length: int, new: int) -> tuple[Engine, object]:
    """An engine whose rows all hold a prompt of `length` tokens."""
    engine = Engine(model, max_batch_size=batch, capacity=length + new + 1, **options)  # type: ignore[arg-type]
    for row in range(batch):
        prompt = torch.randint(model.recipe.vocab_size, (length,), generator=torch.Generator().manual_seed(row))
        engine.submit(Request(prompt.tolist(), Sampling(temperature=0), new))
    events: list[object] = []
    while len(events) < batch:
        events = engine.step()
    return engine, engine.step


def read_bytes(model: Decoder, weight_bytes: float, head_bytes: float, engine: Engine, length: int) -> float:
    """What one step must read: the layers and the head once, and every row's cached tokens."""
    head = model.recipe.vocab_size * model.recipe.dim
    weights = model.parameter_counts()["non_embedding"] * weight_bytes + head * head_bytes
    return weights + engine.cache.bytes() * length / engine.capacity


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--length", type=int, default=1024, help="cached tokens")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    new = arguments.rounds + 8
    shape = {"dim": arguments.dim, "depth": arguments.depth, "heads": arguments.dim // 64}
    model = litmus.build("standard", vocab_size=8192, context=arguments.length + new + 1, **shape).eval()
    large = torch.ones(READ_BYTES // 4)
    rows = []
    for batch in arguments.batches:
        sides: dict[str, Callable[[], object]] = {"reading": large.sum}
        needed = {}
        for way, (options, *weight_bytes) in WAYS.items():
            engine, sides[way] = decoding(model, options, batch, arguments.length, new)  # type: ignore[assignment]
            needed[way] = read_bytes(model, *weight_bytes, engine, arguments.length)
        seconds = interleaved(sides, arguments.rounds, warmup=3)
        for way, count in needed.items():
            floors = [taken * count / READ_BYTES for taken in seconds["reading"]]
            rows.append(
                (
                    batch,
                    way,
                    f"{1e3 * statistics.median(seconds[way]):.1f}",
                    f"{1e3 * statistics.median(floors):.1f}",
                    f"{100 * ratio(floors, seconds[way]):.0f} %",
                    spread(seconds["bf16"], seconds[way]),
                )
            )
    bandwidth = READ_BYTES / statistics.median(seconds["reading"]) / 1e9
    count = model.parameter_counts()["total"]
    stored = {
        bits: sum(part.nbytes for part in quantize(model, QuantizeSettings(bits)).tensors.values()) for bits in (8, 4)
    }
    write_table(
        "decode_floor",
        "Decoding against the time of reading the weights",
        (
            "texts",
            "weights",
            "ms per step (median)",
            "floor, ms",
            "share of the floor",
            "times bf16's rate (middle half)",
        ),
        rows,
        [
            f"`standard`, {arguments.depth} layers of {arguments.dim}, {count / 1e6:,.0f}M parameters, "
            f"{arguments.length:,} cached tokens a text. Reading reached {bandwidth:.1f} GB/s in the last rounds. "
            f"int8 and int4 have activations in bf16, and the head of int4 has 8 bits. As `litmus quantize` stores it, "
            f"the model takes {stored[8] / (2 * count):.3f} of the bytes of bf16 in 8 bits and "
            f"{stored[4] / (2 * count):.3f} in 4. "
            f"Share: floor / step, median of the rounds."
        ],
    )


if __name__ == "__main__":
    main()
