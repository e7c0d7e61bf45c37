"""The worker transformer's two benchmarks, fair and as published, in one command. Writes worker_claims.md.

    python bench/worker_claims.py --corpus tinyshakespeare.txt

Three arms of 3.45M parameters are trained on the same data, for as many steps and then for as many seconds: the gated
baseline, the worker model as Litmus trains it, and the worker model as published (workers at one phase, loss at workers
only). All attend through the same fused kernels. Each run has a folder of its own, and the same command goes on where
an earlier one was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import table, write_table
from rich.console import Console

from litmus.data import DataSettings, TokenData, prepare
from litmus.model import Decoder, load, resolve
from litmus.training import RunResult, TrainSettings, display_for, train
from litmus.training.precision import autocast, cast_for, matmul_precision

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("worker-baseline", {}),
    "worker": ("worker-paper", {}),
    "worker as published": ("worker-paper", {"block.phase": "fixed", "objective.queries": 0.0}),
}
INTERVAL = 4
TIMES = 5
"""How many times within the budget of seconds losses are compared: every minute of five."""

PUBLISHED_BATCHES = {"steps": 50, "seconds": 20}
"""How many batches of windows the founding project's scores are over, at the end and on the way."""

STEP_COLUMNS = ("arm", "parameters", "steps/s", "loss, all tokens", "difference", f"by t mod {INTERVAL}")
PUBLISHED_COLUMNS = ("loss as published", "difference as published")
NOTES = """\
Losses are in nats per token; differences are to the baseline, below 0 where the arm is ahead of it.

- All tokens: every held-out token once, in windows that do not overlap, with the prediction that the model makes there.
- As published: the first held-out windows, each beginning one token after the one before, so that a short stretch of
  text is scored again and again; the baseline at all positions, worker models at their workers only. What the worker
  as published predicts elsewhere was never trained, but text it generates depends on it.
- A loss at a time is that of the first validation from then on. Time is spent on training alone.
- One seed: what is smaller than the difference between two seeds means nothing. `litmus compare worker-baseline
  worker-paper` finds out how large that is.""".splitlines()


def main() -> None:
    """Train what is not trained yet, score it both ways, and write docs/results/worker_claims.md."""
    options = arguments()
    torch.set_num_threads(options.threads)
    settings = DataSettings(corpus=options.corpus, tokenizer="bytes", sample_bytes=options.sample_bytes)
    data = prepare(settings)
    by_steps = {arm: trained(arm, f"{options.steps} steps", settings, options) for arm in ARMS}
    by_seconds = {arm: trained(arm, f"{options.seconds}s", settings, options) for arm in ARMS}
    rows = step_rows(by_steps, data, options)
    more = table(*second_table(by_seconds, data, options))
    title = "The worker transformer's benchmarks: fair, and as published"
    size = f"{options.batch} x {options.context} tokens per step"
    notes = [
        f"After {options.steps} steps, {size}.",
        "",
        f"## At equal seconds, up to {options.seconds}",
        "",
        *more,
        "",
        *NOTES,
    ]
    write_table("worker_claims", title, (*STEP_COLUMNS, *PUBLISHED_COLUMNS), rows, notes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="stdlib", help="the founding project used TinyShakespeare, one file")
    parser.add_argument("--sample-bytes", type=int, help="use only the first so many bytes of the corpus")
    parser.add_argument("--folder", type=Path, default=Path("runs/worker_claims"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-4, help="constant; the default is the founding project's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def run_folder(arm: str, budget: str, options: argparse.Namespace) -> Path:
    return Path(options.folder) / f"{arm} {budget}".replace(" ", "-")


def trained(arm: str, budget: str, data: DataSettings, options: argparse.Namespace) -> RunResult:
    """The result of one arm's run, trained now or before."""
    name, changes = ARMS[arm]
    shape = {"dim": options.dim, "context": options.context, "feedforward.hidden": 4 * options.dim}
    settings = TrainSettings(
        budget=budget,
        batch=options.batch,
        stride=1,  # windows begin anywhere, as in the founding project
        lr=options.lr,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        seed=options.seed,
        validate_tokens=None,
        keep_last=2 * TIMES,
        threads=options.threads,
    )
    recipe = resolve(name, overrides={**shape, **changes})
    return train(recipe, data, settings, run_folder(arm, budget, options), display=display_for(Console()))


def step_rows(results: dict[str, RunResult], data: TokenData, options: argparse.Namespace) -> list[list[str]]:
    """One row per arm after equal steps, all tokens first and as published behind."""
    rows, base = [], None
    for arm, result in results.items():
        folder = run_folder(arm, f"{options.steps} steps", options) / "checkpoints" / str(result.steps)
        losses = result.evaluation.nats_per_token, as_published(folder, result, data, options, "steps")
        base = base or losses
        fair, published = ([f"{loss:.4f}", f"{loss - first:+.4f}"] for loss, first in zip(losses, base, strict=True))
        speed = f"{result.steps / result.train_seconds:.2f}"
        rows.append([arm, f"{result.parameters:,}", speed, *fair, by_phase(result), *published])
    return rows


def second_table(
    results: dict[str, RunResult], data: TokenData, options: argparse.Namespace
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of losses at equal seconds: all tokens for every arm, then as published."""
    columns = [
        "seconds",
        *(f"{arm}, all tokens" for arm in results),
        *(f"{arm}, score as published" for arm in results),
    ]
    rows = []
    for number in range(1, TIMES + 1):
        due = number * options.seconds / TIMES
        reached = [next(point for point in result.curve if point.seconds >= due) for result in results.values()]
        published = [
            as_published(
                run_folder(arm, f"{options.seconds}s", options) / "checkpoints" / str(point.step),
                results[arm],
                data,
                options,
                "seconds",
            )
            for arm, point in zip(results, reached, strict=True)
        ]
        rows.append([f"{due:g}", *compared([point.held_out_loss for point in reached]), *compared(published)])
    return columns, rows


def compared(losses: list[float]) -> list[str]:
    """The first loss, and the others with their difference to it."""
    return [f"{losses[0]:.4f}", *(f"{loss:.4f} ({loss - losses[0]:+.4f})" for loss in losses[1:])]


def by_phase(result: RunResult) -> str:
    """Mean loss over the positions t of each t mod INTERVAL."""
    losses = np.array(result.evaluation.loss_by_position)
    return " ".join(f"{losses[phase::INTERVAL].mean():.3f}" for phase in range(INTERVAL))


@torch.no_grad()
def as_published(
    checkpoint: Path, result: RunResult, data: TokenData, options: argparse.Namespace, benchmark: str
) -> float:
    """The founding project's validation loss: windows that move on by one token, worker models at workers only."""
    model: Decoder = load(checkpoint).eval()
    cast_for(model, result.precision)
    device = torch.device("cpu")
    wanted = PUBLISHED_BATCHES[benchmark] * options.batch
    windows = np.lib.stride_tricks.sliding_window_view(data.held_out, options.context + 1)[:wanted].astype(np.int64)
    position = torch.arange(options.context)
    scored = torch.ones(options.context, dtype=torch.bool)
    if model.recipe.block.kind == "worker":
        scored = (position % INTERVAL == INTERVAL - 1) | (position == options.context - 1)
    total = 0.0
    with matmul_precision(result.precision), autocast(result.precision, device):
        for rows in torch.from_numpy(windows).split(options.batch):
            total += float(model.token_losses(rows[:, :-1], rows[:, 1:])[:, scored].double().sum())
    return total / (len(windows) * int(scored.sum()))


if __name__ == "__main__":
    main()
