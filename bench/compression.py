"""What pruning and quantization cost a run, with and without its super weights kept exact, on the same windows of text.

Writes docs/results/compression-NAME.md. Without super weights the rows that keep them are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from pathlib import Path

import torch
from measure import write_table
from torch import Tensor

from litmus.compression.output import decode_ms
from litmus.compression.pruning import PruneSettings, apply_masks, pruning_masks
from litmus.compression.quantization import QuantizeSettings, quantize
from litmus.compression.source import load_source, text_blocks, text_of
from litmus.compression.superweights import find_super_weights, protected_weights
from litmus.model import Decoder
from litmus.model.packed import dequantized
from litmus.model.storage import load_weights, weights
from litmus.training.paired import BlockScores, score_blocks

QUANTIZED = (
    ("int8, group 64", QuantizeSettings(8, 64)),
    ("int4, group 64", QuantizeSettings(4, 64)),
    ("int4, group 64, embedding too", QuantizeSettings(4, 64, embedding_bits=4)),
    ("int4, group 64, clip 9", QuantizeSettings(4, 64, clip=9.0)),
    ("int4, channel", QuantizeSettings(4, "channel")),
    ("int3, group 64", QuantizeSettings(3, 64)),
)
PRUNED = [(method, sparsity) for sparsity in (0.2, 0.5) for method in ("wanda", "magnitude", "random")]


def found(file: Path) -> dict[str, list[tuple[int, ...]]]:
    """The positions of the super weights in a superweights.json, by parameter."""
    kept: dict[str, list[tuple[int, ...]]] = {}
    for one in json.loads(file.read_text(encoding="utf-8"))["candidates"]:
        if one["verdict"] == "super weight":
            expert = () if one["expert"] is None else (one["expert"],)
            kept.setdefault(one["parameter"], []).append((*expert, one["row"], one["column"]))
    return kept


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument(
        "--superweights", type=Path, help="what litmus superweights --out wrote; else they are searched"
    )
    parser.add_argument("--rows", default="", help="a regular expression that names of rows must match")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = load_source(arguments.run)
    model, text = source.model, text_of(source, arguments.data)
    batch = text_blocks(source, text, blocks=8, length=64)
    if arguments.superweights:
        kept = found(arguments.superweights)
    else:
        kept = protected_weights(find_super_weights(model, batch))
    keeping = {"": {}} | ({", super weights kept": kept} if kept else {})
    total = sum(parameter.numel() for parameter in model.parameters())

    def score(changed: Decoder) -> BlockScores:
        return score_blocks(changed, text, context=arguments.context, batch=4, limit_tokens=arguments.tokens)

    before = score(model)
    rows: list[list[str]] = [["as it is", f"{before.bits_per_byte().mean:.4f}", "", "", ""]]
    after = copy.deepcopy(model)

    def add(name: str, tensors: dict[str, Tensor], share: str, size: str) -> None:
        load_weights(after, tensors, name)
        scores = score(after)
        rows.append([name, f"{scores.bits_per_byte().mean:.4f}", str(scores.bits_per_byte(before)), share, size])
        print(rows[-1], flush=True)

    for name, settings in QUANTIZED:
        for suffix, exact in keeping.items():
            if not re.search(arguments.rows, name + suffix):
                continue
            made = quantize(model, settings, exact)
            size = sum(tensor.nbytes for tensor in made.tensors.values()) / (2 * total)
            add(name + suffix, dequantized(made.tensors, name), f"{made.share:.1%}", f"{size:.3f}x")
    for method, sparsity in PRUNED:
        for suffix, exact in keeping.items():
            name = f"{method}, {sparsity:.0%} pruned{suffix}"
            if not re.search(arguments.rows, name):
                continue
            masks = pruning_masks(model, PruneSettings(sparsity, method), batch, exact)
            load_weights(after, weights(model), "the run")
            apply_masks(after, masks)
            zeros = sum(int((~mask).sum()) for mask in masks.values()) / total
            add(name, weights(after), f"{zeros:.1%}", "1x")
    bf16, int8 = decode_ms(model, model, int8=True)
    name, corpus = Path(arguments.run).name, Path(arguments.data or source.config.data.corpus).name
    write_table(
        f"compression-{name}",
        f"Compression of {name}",
        ["weights", "bits per byte", "difference (95 % interval)", "share", "bytes, to bf16"],
        rows,
        (
            f"{len(before.bytes)} windows, {int(before.bytes.sum()):,} bytes of held-out text of `{corpus}`.",
            f"{sum(map(len, kept.values()))} super weights. share: of the parameters that are quantized, or 0.",
            f"One sequence is decoded in {bf16:.1f} ms per token in bf16 and in {int8:.1f} ms with weights of 8 bits",
            f"(`--int8`), {bf16 / int8:.2f} times as fast.",
        ),
    )


if __name__ == "__main__":
    main()
