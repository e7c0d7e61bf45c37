"""Training speed against nanoGPT's model and loop at one shape, both on the same machine in turn.

nanoGPT is not part of this repository: clone it elsewhere and say where, e.g.

    python bench/training.py --nanogpt ~/nanoGPT
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from measure import gigaflops, interleaved, ratio, spread, write_table

import litmus
from litmus.data.sampler import Sampler
from litmus.model import resolve, training_flops_per_token
from litmus.runtime.precision import Precision, matmul_precision
from litmus.training.settings import TrainSettings
from litmus.training.train_step import TrainStep

VOCABULARY, CONTEXT, BATCH, DIM, DEPTH, HEADS = 8192, 256, 8, 384, 6, 6
SHAPE = {"context": CONTEXT, "dim": DIM, "depth": DEPTH, "heads": HEADS, "dropout": 0.0}
LR = 1e-3


def nanogpt(folder: Path, tokens: np.ndarray) -> Callable[[], None]:
    """One step of nanoGPT's train.py as it runs on a CPU: fp32, its batch, clipping at 1, its AdamW."""
    module = load(folder / "model.py")
    shape = module.GPTConfig(CONTEXT, VOCABULARY, DEPTH, HEADS, DIM, dropout=0.0, bias=True)
    model = module.GPT(shape)
    optimizer = model.configure_optimizers(0.1, LR, (0.9, 0.95), "cpu")

    def step() -> None:
        starts = torch.randint(len(tokens) - CONTEXT, (BATCH,)).tolist()
        x = torch.stack([torch.from_numpy(tokens[i : i + CONTEXT].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + CONTEXT].astype(np.int64)) for i in starts])
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours(recipe: str, precision: Precision, tokens: np.ndarray, **changes: object) -> Callable[[], None]:
    """One step of Litmus: its sampler, loss, clipping, fused AdamW and precision."""
    model = litmus.build(recipe, vocab_size=VOCABULARY, overrides={**SHAPE, **changes})
    settings = TrainSettings(lr=LR, batch=BATCH, context=CONTEXT)
    train_step = TrainStep(model, settings, precision, document_start=0)
    sampler = Sampler(tokens, context=CONTEXT, batch=BATCH, seed=0)
    number = iter(range(10**9))

    def step() -> None:
        with matmul_precision(precision):
            train_step.step([sampler.batch(next(number))], LR)

    return step


def flops_per_token(recipe: str) -> float:
    """Training FLOPs of one token at the measured shape, attention counted as full T x T."""
    return training_flops_per_token(resolve(recipe, vocab_size=VOCABULARY, overrides=SHAPE))


def load(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Measure, and write docs/results/training.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 2_000_000).astype(np.uint16)
    same = {"feedforward.approximate": "none"}  # nanoGPT's GELU is the exact one
    sides = {"nanoGPT, fp32": nanogpt(arguments.nanogpt, tokens)}
    for precision in ("fp32", "medium", "bf16-autocast", "bf16"):
        sides[f"gpt2, {precision}"] = ours("gpt2", precision, tokens, **same)
    sides["standard, fp32"] = ours("standard", "fp32", tokens)
    sides["standard, bf16"] = ours("standard", "bf16", tokens)
    sides["ssmax, bf16"] = ours("ssmax", "bf16", tokens)
    sides["ssmax, fp32"] = ours("ssmax", "fp32", tokens)
    seconds = interleaved(sides, arguments.rounds)
    base = seconds["nanoGPT, fp32"]
    rates = {kind: gigaflops(dtype) for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    rows = []
    for name, taken in seconds.items():
        speed = BATCH * CONTEXT / statistics.median(taken)
        ceiling = rates["bf16" if "bf16" in name else "fp32"]
        recipe = "gpt2" if "gpt2" in name or "nanoGPT" in name else "standard"
        share = 100 * speed * flops_per_token(recipe) / 1e9 / ceiling
        rows.append((name, f"{speed:,.0f}", spread(base, taken), f"{share:.0f} %"))
    overhead = {
        kind: 100 * (ratio(seconds[f"ssmax, {kind}"], seconds[f"standard, {kind}"]) - 1) for kind in ("fp32", "bf16")
    }
    write_table(
        "training",
        "Training speed against nanoGPT",
        ("model, precision", "tokens/s (median)", "times nanoGPT (median, middle half)", "of the matmul rate"),
        rows,
        [
            f"Shape: {DEPTH} layers, {DIM} wide, {HEADS} heads, vocabulary {VOCABULARY}, "
            f"batch {BATCH} x {CONTEXT} tokens; "
            "`gpt2` is the same architecture as nanoGPT's model, with biases and without dropout. Each step is a whole "
            "step of each loop: batch, forward, backward, clipping, optimizer.",
            "",
            f"SSMax adds {overhead['fp32']:+.1f} % to a step of `standard` in fp32, {overhead['bf16']:+.1f} % in bf16.",
        ],
    )


if __name__ == "__main__":
    main()
