"""The error rates of the search for super weights: planted ones are found, none is found in models without one.

Trains one small model of each family, plants a super weight at random places, of random strength and size, and searches
it; then searches models with initial weights. Writes docs/results/superweights-planted.md.

    python bench/superweights.py --keep planted.jsonl               # 200 plants; goes on where it was stopped
    python bench/superweights.py --plants 8 --inits 4 --out /tmp/x  # to try it
"""

from __future__ import annotations

import argparse
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, Kept, write_table

from litmus.compression.ablation import block_losses
from litmus.compression.planting import plant_super_weight
from litmus.compression.study import study
from litmus.compression.superweights import find_super_weights
from litmus.data.tokens.tokenizer import ByteTokenizer
from litmus.diagnostics import down_projections
from litmus.model import Decoder, build
from litmus.nn import Batch

FAMILIES = {
    "GELU": {"feedforward": {"kind": "gelu"}},
    "SwiGLU": {},
    "experts": {"feedforward": {"kind": "moe", "experts": 4, "top_k": 2, "hidden": 32}},
    "shared expert": {"feedforward": {"kind": "moe", "experts": 4, "top_k": 2, "hidden": 32, "shared": 1}},
}
SIZES = {"dim": 32, "depth": 2, "heads": 4, "context": 32}


def corpus(length: int) -> torch.Tensor:
    """Bytes of sentences of a few words."""
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird"]
    return torch.tensor(list(" ".join(draw.choices(words, k=length // 4)).encode())[:length])


def trained(overrides: dict[str, object], tokens: torch.Tensor) -> Decoder:
    """A model after 100 steps."""
    torch.manual_seed(0)
    model = build("standard", vocab_size=128, overrides={**SIZES, **overrides})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        rows = torch.stack([tokens[at : at + 33] for at in torch.randint(len(tokens) - 33, (8,)).tolist()])
        optimizer.zero_grad()
        model.loss(rows[:, :-1], rows[:, 1:]).total.backward()
        optimizer.step()
    return model.eval()


def planted(base: Decoder, batch: Batch, family: str, seed: int) -> dict[str, Any]:
    """Plant a super weight at a random place and search for it; the effects of `study` are those of the first one."""
    draw = random.Random(f"{family} {seed}")
    rows, columns = down_projections(base)[0].matrix.shape
    places = {"row": draw.randrange(rows), "column": draw.randrange(columns)}
    options = {"strength": draw.choice((10.0, 30.0, 100.0)), "quantile": draw.choice((0.5, 0.9, 0.99))}
    model, plant = plant_super_weight(base, batch.tokens, **places, **options, seed=seed)
    search = find_super_weights(model, batch, controls=2, seed=seed)
    right = [
        one
        for one in search.super_weights
        if (one.projection.parameter, one.row, one.column) == (plant.parameter, plant.row, plant.column)
    ]
    before, after = (float(block_losses(one, batch).sum()) / batch.tokens.numel() for one in (base, model))
    found = {"shift": abs(after - before), "exact": bool(right), "false": len(search.super_weights) > len(right)}
    if right:
        found["effect"] = max(one.increase.mean for one in right if one.increase)
    if seed == 0:
        others = study(model, batch, ByteTokenizer(), search).counts["largest"]
        found["others"] = {str(count): one.mean for count, one in others.items()}
    return found


def untrained(batch: Batch, family: str, seed: int) -> bool:
    """Whether a super weight is reported in a model with initial weights."""
    fresh = build("standard", vocab_size=128, seed=seed, overrides={**SIZES, **FAMILIES[family]}).eval()
    return bool(find_super_weights(fresh, batch, controls=2).super_weights)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=200, help="of all families together")
    parser.add_argument("--inits", type=int, default=50, help="models with initial weights, of all families together")
    parser.add_argument("--keep", type=Path, help="a file of what was measured, to go on after a stop")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, tokens, kept = time.time(), corpus(20_000), Kept(arguments.keep)
    batch = Batch(tokens[: 8 * 32].view(8, 32), tokens[1 : 8 * 32 + 1].view(8, 32))
    columns = ["family", "planted", "found exactly", "false", "loss change", "zeroed", "1,000 larger", "untrained"]
    rows = []
    for number, (family, overrides) in enumerate(FAMILIES.items()):
        base = trained(overrides, tokens)
        plants = range(len(range(number, arguments.plants, len(FAMILIES))))
        inits = range(len(range(number, arguments.inits, len(FAMILIES))))
        found = [kept.get(f"{family} {seed}", partial(planted, base, batch, family, seed)) for seed in plants]
        wrong = [kept.get(f"{family} untrained {seed}", partial(untrained, batch, family, seed)) for seed in inits]
        exact, false = (sum(one[kind] for one in found) for kind in ("exact", "false"))
        shift = f"{max(one['shift'] for one in found):.4f}"
        effect = f"{min((one['effect'] for one in found if one['exact']), default=0.0):+.2f}"
        others = f"{found[0]['others']['1000']:+.4f}"
        rows.append([family, len(found), exact, false, shift, effect, others, f"{sum(wrong)} of {len(wrong)}"])
        print(rows[-1], f"{time.time() - started:.0f} s", flush=True)
    write_table(
        "superweights-planted",
        "Planted super weights",
        columns,
        rows,
        (
            "Each has a random row, column, strength and size. found exactly: searches that name the planted row and",
            "column; false: searches that name another weight. Nats per token: loss change, the largest by planting;",
            "zeroed, the least increase without the planted weight; 1,000 larger, the increase without the 1,000",
            "largest other weights. untrained: models with initial weights in which a super weight is reported.",
        ),
        arguments.out,
    )


if __name__ == "__main__":
    main()
