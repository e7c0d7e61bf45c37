"""What workers save: training steps, scoring and decoding against the gated baseline, all fused. Writes worker.md."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from measure import interleaved, spread, table, write_table

from litmus.data.sampler import Sampler
from litmus.model import Decoder, build, resolve, scored_share, training_flops_per_token
from litmus.runtime.precision import best_precision, matmul_precision
from litmus.training import TrainSettings
from litmus.training.train_step import TrainStep

BASE = "worker-baseline"
SIDES = {
    BASE: (BASE, {}),
    "worker, queries 1": ("worker-paper", {}),
    "worker, queries 1/2": ("worker-paper", {"objective.queries": 0.5}),
    "worker, queries 1/4": ("worker-paper", {"objective.queries": 0.25}),
    "worker, no queries (as published)": ("worker-paper", {"objective.queries": 0.0}),
}
USED = {name: SIDES[name] for name in (BASE, "worker, queries 1")}
PRECISIONS = ("fp32", "bf16") if best_precision(torch.device("cpu")) == "bf16" else ("fp32",)
"""Without native bf16 products a step in bf16 takes many times as long and tells nothing."""


def step_of(side: str, precision: str, rows: int, context: int) -> Callable[[], object]:
    """One training step of `rows` sequences."""
    name, changes = SIDES[side]
    model = build(name, overrides={**changes, "context": context})
    settings = TrainSettings(batch=rows, context=context)
    train_step = TrainStep(model, settings, precision, document_start=0)  # type: ignore[arg-type]
    tokens = np.random.default_rng(0).integers(0, model.recipe.vocab_size, 200_000).astype(np.uint16)
    sampler = Sampler(tokens, context=context, batch=rows, seed=0)
    number = iter(range(10**9))

    def take() -> None:
        with matmul_precision(precision):  # type: ignore[arg-type]
            train_step.step([sampler.batch(next(number))], 1e-3)

    return take


def scoring_of(model: Decoder, rows: int, context: int) -> Callable[[], object]:
    """Scoring of every token of `rows` sequences."""
    tokens = torch.randint(model.recipe.vocab_size, (rows, context))
    return lambda: model.token_losses(tokens, tokens)


def decoding_of(model: Decoder, context: int, tokens: int) -> Callable[[], object]:
    """The last `tokens` of one sequence of `context`, decoded one by one."""
    text = torch.randint(model.recipe.vocab_size, (1, context))

    @torch.no_grad()
    def decode() -> None:
        cache = model.new_cache(1, context)
        cache.lengths += context - tokens  # any numbers will do for what is in the cache already
        cache.start = cache.used = context - tokens
        for token in text[:, -tokens:].split(1, dim=1):
            model(token, cache)

    return decode


def main() -> None:
    """Measure, and write docs/results/worker.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 16])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for batch in arguments.batches:
        for precision in PRECISIONS:
            steps = {side: step_of(side, precision, batch, arguments.context) for side in SIDES}
            taken = interleaved(steps, arguments.rounds, warmup=1)
            for side, (name, changes) in SIDES.items():
                recipe, base = resolve(name, overrides=changes), resolve(BASE)
                flops = training_flops_per_token(base, arguments.context)
                fewer = flops / training_flops_per_token(recipe, arguments.context)
                rows.append(
                    (
                        f"{batch} x {arguments.context}",
                        precision,
                        side,
                        f"{statistics.median(taken[side]):.3f}",
                        spread(taken[BASE], taken[side]),
                        f"{fewer:.2f}",
                        f"{scored_share(recipe):.0%}",
                        f"{fewer * scored_share(recipe):.2f}",
                    )
                )
    columns = ("batch", "precision", "arm", "s/step", "times faster", "times fewer FLOPs", "tokens scored")
    models = {side: build(name, overrides=changes).eval() for side, (name, changes) in USED.items()}
    uses = [
        ("scoring all tokens of 2 rows", {side: scoring_of(m, 2, arguments.context) for side, m in models.items()}),
        ("decoding 32 tokens, one by one", {side: decoding_of(m, arguments.context, 32) for side, m in models.items()}),
    ]
    used = []
    for what, both in uses:
        one, other = interleaved(both, arguments.rounds).values()
        used.append((what, f"{statistics.median(one):.3f}", f"{statistics.median(other):.3f}", spread(other, one)))
    write_table(
        "worker",
        "What workers save",
        (*columns, "times fewer FLOPs per scored token"),
        rows,
        [
            "Training: forward, backward and update at the published sizes with 65 characters, against the gated "
            "baseline through the same fused attention. Tokens scored: how much of a batch the loss is over.",
            "",
            *table(("in fp32", "baseline, s", "worker, s", "times the baseline's time"), used),
            "",
            "Scoring runs two streams, as every token is asked as a worker; in decoding each token is a worker once.",
        ],
    )


if __name__ == "__main__":
    main()
