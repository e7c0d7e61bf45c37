"""Window, packed documents and compressed attention on a GPU: litmus's own paths against flex_attention.

Writes flex_attention.md. Forward and backward of attention alone, at the heads of size `small`; the masks are made once
per pass of a model, so their time is a column of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measure import interleaved, spread, write_table
from torch import Tensor

from litmus.catalog import SIZES
from litmus.nn import ForwardContext, Keys, Window, attend, attend_window
from litmus.nn.attention import flex
from litmus.nn.attention.compressed_blocks import Shape, attend_in_chunks, chunk_masks, layout_of
from litmus.nn.core.forward_context import positions_within

TOKENS = 16384
"""Tokens of a batch, in rows of each length."""
HEADS = SIZES["small"]["heads"]
WIDTH = SIZES["small"]["dim"] // HEADS
WINDOWS = (256, 1024)
DOCUMENT = 512
"""Mean tokens of a document."""
COMPRESSED = Shape(block=16, latents=1, window=64)
CASES = [
    *(
        (kind, length, torch.bfloat16)
        for length in (4096, 1024, 16384)
        for kind in (*WINDOWS, "documents", "compressed")
    ),
    (256, 4096, torch.float32),
]
"""Kind (a number is a window), tokens of a row, dtype; in the order of their worth, should the time not suffice."""

Attend = Callable[[ForwardContext], Tensor]


@dataclass
class Case:
    """One kind of attention over random inputs: both ways to compute it, in a context with or without masks."""

    ours: Attend
    flex: Attend
    inputs: list[Tensor]
    new_context: Callable[[], ForwardContext]


def case(kind: int | str, length: int, dtype: torch.dtype) -> Case:
    rows = TOKENS // length
    blocks = length // COMPRESSED.block
    sizes = [length] * 3 + [blocks * COMPRESSED.latents] * 2 * (kind == "compressed")
    inputs = [torch.randn(rows, size, HEADS, WIDTH, device="cuda", dtype=dtype, requires_grad=True) for size in sizes]
    q, k, v = inputs[:3]
    index = torch.arange(length, device="cuda").expand(rows, -1)
    if kind == "documents":
        documents = (torch.rand(rows, length, device="cuda") < 1 / DOCUMENT).cumsum(1)
        positions = positions_within(documents, None, index)

        def packed() -> ForwardContext:
            return ForwardContext(positions, None, document_ids=documents)

        ours = lambda ctx: attend(q, k, v, ctx.attention_mask())  # noqa: E731
        return Case(ours, lambda ctx: flex.attend_documents(q, k, v, ctx), inputs, packed)
    plain = lambda: ForwardContext(index)  # noqa: E731
    if isinstance(kind, int):
        window = Window(kind)
        ours = lambda ctx: attend_window(q, k, v, Keys(index[:1]), window, ctx)  # noqa: E731
        intervals = lambda ctx: window.intervals(flex.first_keys(ctx))  # noqa: E731
        theirs = lambda ctx: flex.attend_intervals(q, k, v, ctx, window, lambda: intervals(ctx))  # noqa: E731
        return Case(ours, theirs, inputs, plain)
    far_k, far_v = inputs[3:]
    layout = layout_of(plain(), COMPRESSED)

    def in_chunks(ctx: ForwardContext) -> Tensor:
        masks = ctx.memo("masks", lambda: chunk_masks(length, layout, COMPRESSED))
        return attend_in_chunks(q, (k, far_k), (v, far_v), layout, COMPRESSED, masks)

    def in_blocks(ctx: ForwardContext) -> Tensor:
        both_k, both_v = torch.cat((k, far_k), 1), torch.cat((v, far_v), 1)
        return flex.attend_intervals(q, both_k, both_v, ctx, "compressed", lambda: layout.intervals(COMPRESSED))

    return Case(in_chunks, in_blocks, inputs, plain)


def measured(name: int | str, length: int, dtype: torch.dtype, rounds: int) -> tuple[object, ...]:
    """A row of the table."""
    torch.manual_seed(0)
    here = case(name, length, dtype)
    upstream = torch.randn_like(here.inputs[0])

    def run(attention: Attend, ctx: ForwardContext) -> list[Tensor]:
        y = attention(ctx)
        return [y, *torch.autograd.grad(y, here.inputs, upstream)]

    start = time.perf_counter()
    found = run(here.flex, here.new_context())
    torch.cuda.synchronize()
    compiling = time.perf_counter() - start
    expected = run(here.ours, here.new_context())
    pairs = [(a.detach().float(), b.detach().float()) for a, b in zip(found, expected, strict=True)]
    error = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    assert error < 2e-2, f"{name}, {length} tokens: the two ways differ by {error:.2g}"
    del found, expected, pairs
    ways, peaks, masks = {"ours": here.ours, "flex": here.flex}, {}, {}
    sides: dict[str, Callable[[], object]] = {}
    for way, attention in ways.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, ctx = torch.cuda.memory_allocated(), here.new_context()
        run(attention, ctx)
        peaks[way] = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f}"
        sides[way] = lambda attention=attention, ctx=ctx: run(attention, ctx)  # type: ignore[misc]
    seconds = interleaved(sides, rounds)
    forward: dict[str, Callable[[], object]] = {}
    for way, attention in ways.items():
        ctx = here.new_context()
        forward[f"{way}, masks new"] = lambda attention=attention: attention(here.new_context())  # type: ignore[misc]
        forward[f"{way}, masks kept"] = lambda attention=attention, ctx=ctx: attention(ctx)  # type: ignore[misc]
    taken = interleaved(forward, rounds)
    for way in ways:
        masks[way] = statistics.median(taken[f"{way}, masks new"]) - statistics.median(taken[f"{way}, masks kept"])
    return (
        f"window {name}" if isinstance(name, int) else name,
        str(dtype).removeprefix("torch."),
        f"{len(here.inputs[0])} x {length:,}",
        *(f"{1e3 * statistics.median(seconds[way]):.2f}" for way in ways),
        spread(seconds["ours"], seconds["flex"]),
        *peaks.values(),
        *(f"{1e3 * max(0.0, masks[way]):.1f}" for way in ways),
        f"{compiling:.1f}",
    )


def main() -> None:
    """Measure, and write docs/results/flex_attention.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=75, help="no further case is begun after this time")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or not flex.is_installed():
        print(
            "bench/flex_attention.py needs a CUDA device, Triton and a C compiler, and not all are here",
            file=sys.stderr,
        )
        sys.exit(2)
    begun, rows = time.perf_counter(), []
    try:
        for name, length, dtype in CASES:
            if time.perf_counter() - begun > arguments.seconds:
                break
            rows.append(measured(name, length, dtype, arguments.rounds))
            print(*rows[-1], sep=" | ", flush=True)
            torch.cuda.empty_cache()
    finally:  # what was measured is kept, whatever came after it
        write(rows)


def write(rows: list[tuple[object, ...]]) -> None:
    """Write docs/results/flex_attention.md."""
    left = len(CASES) - len(rows)
    write_table(
        "flex_attention",
        "Attention under block masks, against litmus's own paths",
        (
            "attention",
            "dtype",
            "rows x tokens",
            "ours, ms",
            "flex, ms",
            "speed, ours = 1 (middle half)",
            "ours, peak MiB",
            "flex, peak MiB",
            "ours, masks ms",
            "flex, masks ms",
            "first call s",
        ),
        rows,
        [
            f"Attention alone, forward and backward, {HEADS} heads of {WIDTH}. Documents of about {DOCUMENT} tokens. "
            f"Compressed: blocks of {COMPRESSED.block} to {COMPRESSED.latents} latent, window {COMPRESSED.window}. "
            "Peak: memory that one pass and its masks add. Masks are made once per pass of a model, for all layers. "
            "First call: with compiling, unless an earlier row has compiled the same shapes."
            + (f" Not measured: the last {left} of {len(CASES)} cases." if left else ""),
        ],
    )


if __name__ == "__main__":
    main()
