"""Causal compressed attention against full causal attention: training time, memory, and what decoding caches.

Writes latent_attention.md (forward and backward, by length) and latent_cache.md (cache bytes of the live buffers, and
the time of one more token).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, spread, write_table
from torch import Tensor

import litmus
from litmus.model import Decoder
from litmus.nn import attend
from litmus.runtime.memory import process_peak_bytes

SHAPE = {"vocab_size": 8192, "dim": 512, "depth": 2, "heads": 8}
OPTIONS = {"mixer.block": 16, "mixer.latents": 1, "mixer.window": 256}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def models(context: int, dtype: torch.dtype) -> dict[str, Decoder]:
    """The two sides, alike in all but the mixer."""
    full = litmus.build("standard", context=context, **SHAPE)
    compressed = litmus.build("compressed", context=context, overrides=OPTIONS, **SHAPE)
    return {"full": full.to(dtype), "compressed": compressed.to(dtype)}


def training(model: Decoder, length: int) -> Callable[[], object]:
    """Forward and backward of the whole model and its loss."""
    tokens = torch.randint(SHAPE["vocab_size"], (1, length))
    return lambda: model.loss(tokens, tokens).total.backward()


def mixing(model: Decoder, length: int) -> Callable[[], object]:
    """Forward and backward of one mixer, with its maps to queries, keys and values and back."""
    layer: Any = model.layers[0]
    tokens = torch.zeros(1, length, dtype=torch.long)
    x = torch.randn(1, length, SHAPE["dim"], dtype=model.embedding.weight.dtype, requires_grad=True)
    return lambda: layer.mixer(x, model.forward_context(tokens)).sum().backward()


def attending(model: Decoder, length: int) -> Callable[[], object]:
    """Forward and backward of attention alone, from queries, keys and values to what the heads have read."""
    layer: Any = model.layers[0]
    mixer = layer.mixer
    tokens = torch.zeros(1, length, dtype=torch.long)
    x = torch.randn(1, length, SHAPE["dim"], dtype=model.embedding.weight.dtype)
    with torch.no_grad():
        made = mixer.qkv_proj(x, model.forward_context(tokens))
        if hasattr(mixer, "scores"):
            made = (*made, mixer.scores(x).unflatten(-1, (mixer.kv_heads, -1)))
    q, k, v, *scores = (part.contiguous().requires_grad_() for part in made)

    def once() -> None:
        ctx = model.forward_context(tokens)
        y: Tensor = mixer.attend_many(q, k, v, *scores, ctx) if scores else attend(q, k, v, "causal")
        y.sum().backward()

    return once


WAYS = {"attention alone": attending, "one mixer": mixing, "whole model": training}


def peak(side: str, dtype: str, length: int) -> float:
    """Peak memory in MB of a process that takes two passes of the whole model, forward and backward."""
    command = [sys.executable, sys.argv[0], "--side", side, "--dtype", dtype, "--lengths", str(length)]
    return float(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def by_length(lengths: list[int], rounds: int) -> None:
    """Write latent_attention.md."""
    rows = []
    empty = peak("nothing", "fp32", 1)
    for name, dtype in DTYPES.items():
        for length in lengths:
            sides = models(length, dtype)
            for what, way in WAYS.items():
                seconds = interleaved({side: way(model, length) for side, model in sides.items()}, rounds, warmup=1)
                for side, taken in seconds.items():
                    faster = spread(seconds["full"], taken)
                    milliseconds = f"{1e3 * statistics.median(taken):,.0f}"
                    memory = f"{peak(side, name, length) - empty:,.0f}" if what == "whole model" else ""
                    rows.append((name, f"{length:,}", what, side, milliseconds, faster, memory))
    write_table(
        "latent_attention",
        "Compressed attention, forward and backward",
        ("type", "tokens", "of", "attention", "ms (median)", "times faster (middle half)", "peak MB"),
        rows,
        [
            f"One sequence; {described()}. Full is torch's fused causal attention. One mixer includes the maps to "
            f"queries, keys and values and back; the whole model has {SHAPE['depth']} layers and its loss. Peak memory "
            f"is that of a process of its own, less the {empty:,.0f} MB of one that builds nothing."
        ],
    )


@torch.inference_mode()
def decoding(lengths: list[int], rounds: int) -> None:
    """Write latent_cache.md."""
    rows = []
    for name, dtype in DTYPES.items():
        for length in lengths:
            held, sides = {}, {}
            for side, model in models(length, dtype).items():
                cache = model.eval().new_cache(1, length)
                held[side] = cache.bytes()
                prompt = torch.randint(SHAPE["vocab_size"], (1, length - rounds - 8))
                token = model.last_logits(prompt, cache).argmax(-1, keepdim=True)
                sides[side] = one_more(model, cache, token)
            seconds = interleaved(sides, rounds, warmup=5)
            for side, taken in seconds.items():
                share = f"1/{held['full'] / held[side]:.1f}"
                milliseconds = f"{1e3 * statistics.median(taken):.2f}"
                faster = spread(seconds["full"], taken)
                rows.append((name, f"{length:,}", side, f"{held[side] / 2**20:,.2f}", share, milliseconds, faster))
    write_table(
        "latent_cache",
        "What compressed attention caches",
        (
            "type",
            "capacity",
            "attention",
            "cache MB (live)",
            "of full",
            "ms per token (median)",
            "times faster (middle half)",
        ),
        rows,
        [f"One row of a model of {SHAPE['depth']} layers, nearly full, decoded token by token; {described()}."],
    )


def one_more(model: Decoder, cache: Any, token: Tensor) -> Callable[[], object]:
    """Decode one token."""
    return lambda: token.copy_(model.last_logits(token, cache).argmax(-1, keepdim=True))


def described() -> str:
    """The shape measured, in words."""
    return (
        f"{SHAPE['heads']} heads of {SHAPE['dim'] // SHAPE['heads']}, blocks of {OPTIONS['mixer.block']}, "
        f"{OPTIONS['mixer.latents']} latent each, window {OPTIONS['mixer.window']}"
    )


def main() -> None:
    """Measure, and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["nothing", "full", "compressed"], help="only print a process's peak in MB")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.side:
        if arguments.side != "nothing":
            once = training(models(arguments.lengths[0], DTYPES[arguments.dtype])[arguments.side], arguments.lengths[0])
            once(), once()
        print(json.dumps(process_peak_bytes() / 2**20))
        return
    by_length(arguments.lengths, arguments.rounds)
    decoding(arguments.lengths, 5 * arguments.rounds)


if __name__ == "__main__":
    main()
