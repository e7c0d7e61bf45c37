"""The error rates of the search for super weights: planted ones are found, none is found in models without one.

Trains one small model of each family, plants a super weight at random places, of random strength and size, and searches
it; then searches models with initial weights. Writes docs/results/superweights-planted.md.
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from measure import write_table

from litmus.compression.ablation import block_losses
from litmus.compression.planting import plant_super_weight
from litmus.compression.study import study
from litmus.compression.superweights import find_super_weights
from litmus.data.tokens.tokenizer import ByteTokenizer
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


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plants", type=int, default=200)
    parser.add_argument("--inits", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started, draw, tokens = time.time(), random.Random(1), corpus(20_000)
    batch = Batch(tokens[: 8 * 32].view(8, 32), tokens[1 : 8 * 32 + 1].view(8, 32))
    columns = ["family", "planted", "found exactly", "false", "loss change", "zeroed", "1,000 larger", "untrained"]
    rows = []
    for number, (family, overrides) in enumerate(FAMILIES.items()):
        base = trained(overrides, tokens)
        before = float(block_losses(base, batch).sum()) / batch.tokens.numel()
        plants = len(range(number, arguments.plants, len(FAMILIES)))
        exact = false = 0
        shifts, effects, larger = [], [], []
        for seed in range(plants):
            wide = 32 if "moe" in str(overrides) else 96
            places = {"row": draw.randrange(32), "column": draw.randrange(wide)}
            options = {"strength": draw.choice((10.0, 30.0, 100.0)), "quantile": draw.choice((0.5, 0.9, 0.99))}
            planted, plant = plant_super_weight(base, batch.tokens, **places, **options, seed=seed)
            shifts.append(abs(float(block_losses(planted, batch).sum()) / batch.tokens.numel() - before))
            search = find_super_weights(planted, batch, controls=2, seed=seed)
            right = [
                one
                for one in search.super_weights
                if (one.projection.parameter, one.row, one.column) == (plant.parameter, plant.row, plant.column)
            ]
            exact += bool(right)
            false += len(search.super_weights) > len(right)
            if right:
                effects.append(max(one.increase.mean for one in right if one.increase))
            if seed == 0:
                shown = study(planted, batch, ByteTokenizer(), search)
                larger.append(shown.counts["largest"][1000].mean)
        inits = len(range(number, arguments.inits, len(FAMILIES)))
        wrong = 0
        for seed in range(inits):
            fresh = build("standard", vocab_size=128, seed=seed, overrides={**SIZES, **overrides}).eval()
            wrong += bool(find_super_weights(fresh, batch, controls=2).super_weights)
        effect, others = f"{min(effects):+.2f}", f"{max(larger):+.4f}"
        rows.append([family, plants, exact, false, f"{max(shifts):.4f}", effect, others, f"{wrong} of {inits}"])
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
    )


if __name__ == "__main__":
    main()
