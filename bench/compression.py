"""What pruning and quantization cost a run, with and without its costly weights kept exact, on the same text.

Costly weights are the candidates of the search for super weights whose zeroing raises the loss, whatever the verdict on
them. Writes docs/results/compression-NAME.md and a figure of the pruned ones. Without costly weights the rows that keep
them are left out; with torchao (pip install torchao) its int8 and int4 stand beside ours.

    python bench/compression.py runs/smollm2-135m --data tinystories.txt --keep rows.jsonl  # goes on after a stop
    python bench/compression.py runs/x --tokens 512 --rows 'int4' --out /tmp/x              # to try it
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from measure import RESULTS, Kept, write_table
from torch import Tensor, nn

from litmus.compression.output import decode_ms
from litmus.compression.pruning import PruneSettings, apply_masks, pruning_masks
from litmus.compression.quantization import QuantizeSettings, quantize
from litmus.compression.source import load_source, text_blocks, text_of
from litmus.compression.superweights import find_super_weights
from litmus.model import Decoder
from litmus.model.packed import dequantized
from litmus.model.storage import load_weights, weights
from litmus.nn import Batch
from litmus.training.paired import BlockScores, score_blocks

QUANTIZED = {
    "int8, group 64": QuantizeSettings(8, 64),
    "int8, group 64, embedding in bf16": QuantizeSettings(8, 64, embedding_bits=16),
    "int4, group 64": QuantizeSettings(4, 64),
    "int4, group 64, embedding in bf16": QuantizeSettings(4, 64, embedding_bits=16),
    "int4, group 64, embedding too": QuantizeSettings(4, 64, embedding_bits=4),
    "int4, group 64, symmetric": QuantizeSettings(4, 64, symmetric=True),
    "int4, group 64, clip 9": QuantizeSettings(4, 64, clip=9.0),
    "int4, channel": QuantizeSettings(4, "channel"),
    "int3, group 64": QuantizeSettings(3, 64),
}
COSTLY_KEPT = ", costly weights kept"
TORCHAO = ("torchao, int8, group 64", "torchao, int4, group 64")
METHODS, SPARSITIES = ("wanda", "magnitude", "random"), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
PRUNED = [(method, sparsity) for sparsity in SPARSITIES for method in METHODS]


def costly(candidates: Iterable[dict[str, Any]]) -> dict[str, list[tuple[int, ...]]]:
    """The positions of the candidates of a superweights.json that are not harmless, by parameter."""
    kept: dict[str, list[tuple[int, ...]]] = {}
    for one in candidates:
        if one["verdict"] in ("super weight", "one of several"):
            expert = () if one["expert"] is None else (one["expert"],)
            kept.setdefault(one["parameter"], []).append((*expert, one["row"], one["column"]))
    return kept


@dataclass(frozen=True)
class Made:
    """The weights of a compressed model as they are computed with, the share that is changed, and their bytes."""

    weights: dict[str, Tensor]
    share: float
    bytes: int | None


def rounded(model: Decoder, settings: QuantizeSettings, exact: dict[str, list[tuple[int, ...]]]) -> Made:
    """The model quantized as `litmus quantize` does."""
    made = quantize(model, settings, exact)
    return Made(dequantized(made.tensors, "it"), made.share, sum(tensor.nbytes for tensor in made.tensors.values()))


def pruned(model: Decoder, batch: Batch, method: Any, sparsity: float, exact: dict[str, list[tuple[int, ...]]]) -> Made:
    """The model pruned as `litmus prune` does."""
    masks = pruning_masks(model, PruneSettings(sparsity, method), batch, exact)
    changed = copy.deepcopy(model)
    apply_masks(changed, masks)
    total = sum(parameter.numel() for parameter in model.parameters())
    return Made(weights(changed), sum(int((~mask).sum()) for mask in masks.values()) / total, 2 * total)


def torchao(model: Decoder, name: str) -> Made:
    """The model with its layers' linear maps quantized by torchao; how it stores them depends on the device."""
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, MappingType, PerGroup, quantize_

    group = PerGroup(64)
    configs = {
        "torchao, int8, group 64": lambda: Int8WeightOnlyConfig(granularity=group, version=2),
        "torchao, int4, group 64": lambda: IntxWeightOnlyConfig(torch.int4, group, MappingType.ASYMMETRIC),
    }
    changed = copy.deepcopy(model)
    quantize_(changed.layers, configs[name](), lambda module, _: isinstance(module, nn.Linear))
    linear = {f"layers.{n}.weight" for n, module in changed.layers.named_modules() if isinstance(module, nn.Linear)}
    tensors = weights(changed)
    share = sum(tensors[n].numel() for n in linear) / sum(parameter.numel() for parameter in model.parameters())
    return Made({n: value.dequantize() if n in linear else value for n, value in tensors.items()}, share, None)


def place(name: str) -> tuple[int, int]:
    """Where a row stands in the table: each one beside the same with costly weights kept."""
    plain = name.removesuffix(COSTLY_KEPT)
    order = [*QUANTIZED, *TORCHAO, *(f"{method}, {sparsity:.0%} pruned" for method, sparsity in PRUNED)]
    return order.index(plain), name != plain


def draw(bits: dict[str, float], path: Path) -> None:
    """Bits per byte by sparsity, for each method, with and without costly weights kept."""
    matplotlib.rcParams |= {"svg.hashsalt": "litmus", "svg.fonttype": "none"}
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, method in enumerate(METHODS):
        for suffix, style in (("", "-"), (COSTLY_KEPT, "--")):
            names = {sparsity: f"{method}, {sparsity:.0%} pruned{suffix}" for sparsity in SPARSITIES}
            curve = {0.0: bits["as it is"]} | {at: bits[name] for at, name in names.items() if name in bits}
            if len(curve) > 1:
                places = [100 * at for at in curve]
                axes.plot(places, list(curve.values()), style, color=f"C{number}", marker=".", label=method + suffix)
    axes.set_title("bits per byte", loc="left", fontsize=9.5)
    axes.set_xlabel("weights of the layers' matrices at 0, %", fontsize=9)
    axes.grid(True, linewidth=0.4)
    figure.legend(loc="outside lower center", ncols=len(METHODS), fontsize=7, frameon=False)
    figure.savefig(path, metadata={"Date": None})


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
    parser.add_argument("--keep", type=Path, help="a file of the rows that were measured, to go on after a stop")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = load_source(arguments.run)
    model, text = source.model, text_of(source, arguments.data)
    batch = text_blocks(source, text, blocks=8, length=64)
    if arguments.superweights:
        candidates = json.loads(arguments.superweights.read_text(encoding="utf-8"))["candidates"]
    else:
        candidates = [one.to_dict() for one in find_super_weights(model, batch).candidates]
    exact = costly(candidates)
    terms = f"{arguments.run}, {arguments.data}, {arguments.tokens} tokens in windows of {arguments.context}"
    keeping = {"": {}} | ({COSTLY_KEPT: exact} if exact else {})
    total = sum(parameter.numel() for parameter in model.parameters())
    after, kept = copy.deepcopy(model), Kept(arguments.keep)

    def score(changed: Decoder) -> BlockScores:
        return score_blocks(changed, text, context=arguments.context, batch=4, limit_tokens=arguments.tokens)

    before = score(model)

    def row(name: str, make: Callable[[], Made]) -> list[str]:
        made = make()
        load_weights(after, made.weights, name)
        scores = score(after)
        size = "–" if made.bytes is None else f"{made.bytes / (2 * total):.3f}x"
        bits, perplexity = f"{scores.bits_per_byte().mean:.4f}", f"{scores.perplexity:,.2f}"
        return [name, bits, perplexity, str(scores.bits_per_byte(before)), f"{made.share:.1%}", size]

    makers: dict[str, Callable[[], Made]] = {}
    for suffix, places in keeping.items():
        for name, settings in QUANTIZED.items():
            makers[name + suffix] = partial(rounded, model, settings, places)
        for method, sparsity in PRUNED:
            makers[f"{method}, {sparsity:.0%} pruned{suffix}"] = partial(pruned, model, batch, method, sparsity, places)
    if find_spec("torchao"):
        for name in TORCHAO:
            makers[name] = partial(torchao, model, name)
    else:
        print("torchao is not installed: without its rows")
    rows = [["as it is", f"{before.bits_per_byte().mean:.4f}", f"{before.perplexity:,.2f}", "", "", ""]]
    for name in (name for name in sorted(makers, key=place) if re.search(arguments.rows, name)):
        which = f" {sorted(exact.items())}" if name.endswith(COSTLY_KEPT) else ""
        rows.append(kept.get(f"{terms}: {name}{which}", partial(row, name, makers[name])))
        print(rows[-1], flush=True)
    decoded = {}
    for bits in (8, 4):
        named = f"{terms}: decode {bits}, {arguments.threads} threads"
        decoded[bits] = kept.get(named, partial(decode_ms, model, model, bits=bits))
    name, corpus = Path(arguments.run).name, Path(arguments.data or source.config.data.corpus).name
    figures = []
    if any("pruned" in one[0] for one in rows):
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw({one[0]: float(one[1]) for one in rows}, arguments.out / f"compression-{name}.svg")
        figures = [f"![bits per byte by sparsity](compression-{name}.svg)", ""]
    write_table(
        f"compression-{name}",
        f"Compression of {name}",
        ["weights", "bits per byte", "perplexity", "difference (95 % interval)", "share", "bytes, to bf16"],
        rows,
        (
            *figures,
            f"{len(before.bytes)} windows, {int(before.bytes.sum()):,} bytes of held-out text of `{corpus}`.",
            f"{sum(map(len, exact.values()))} costly weights, of which "
            f"{sum(one['verdict'] == 'super weight' for one in candidates)} are super weights by the rule.",
            "share: of the parameters that are quantized, or 0.",
            "int is round-to-nearest; torchao's rows are its weight-only quantization of the layers' linear maps.",
            "One sequence, weights in bf16 and in fewer bits in turn:",
            *(
                f"{bf16:.1f} ms per token and {fewer:.1f} with `--int{bits}`, {bf16 / fewer:.2f} times as fast."
                for bits, (bf16, fewer) in decoded.items()
            ),
        ),
        arguments.out,
    )


if __name__ == "__main__":
    main()
