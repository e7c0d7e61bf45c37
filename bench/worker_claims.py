"""The worker transformer's two benchmarks, fair and as published, in one command. Writes worker_claims.md and .png.

    python bench/worker_claims.py --corpus tinyshakespeare.txt

Three arms of the published size (3.5M parameters over bytes) are trained on the same data, for as many seconds and then
for as many steps: the gated baseline, the worker model as Litmus trains it, and the worker model as published (workers
at one phase, loss at workers only). All attend through the same fused kernels. Each run has a folder of its own, which
keeps its scores too, and the same command goes on where an earlier one was stopped. Let nothing else run beside the
runs by seconds, which are the first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from measure import RESULTS, table, write_table
from rich.console import Console

from litmus.data import DataSettings, TokenData, prepare
from litmus.files import write_atomically
from litmus.generation.bench.report import COLORS, save_figure
from litmus.model import Decoder, load, resolve
from litmus.runtime.precision import autocast, cast_parameters, matmul_precision
from litmus.training import TrainSettings
from litmus.training.display import display_for
from litmus.training.run.result import RunResult
from litmus.training.trainer import train_run

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

STEP_COLUMNS = ("arm", "parameters", "loss, all tokens", "difference", f"by t mod {INTERVAL}")
PUBLISHED_COLUMNS = ("loss as published", "difference as published")
NOTES = """\
Losses are in nats per token; differences are to the baseline, below 0 where the arm is ahead of it.

- All tokens: every held-out token once, in windows that do not overlap, with the prediction that the model makes there.
- As published: the first held-out windows, each beginning one token after the one before, so that a short stretch of
  text is scored again and again; the baseline at all positions, worker models at their workers only. What the worker
  as published predicts elsewhere was never trained, but text it generates depends on it.
- A loss at a time is that of the first validation from then on, in brackets the steps made by then. Time is that of
  training alone.
- One seed: what is smaller than the difference between two seeds means nothing. `litmus compare worker-baseline
  worker-paper` finds out how large that is.""".splitlines()


def main() -> None:
    """Train what is not trained yet, score it both ways, and write docs/results/worker_claims.md and its figure."""
    options = arguments()
    torch.set_num_threads(options.threads)
    settings = DataSettings(corpus=options.corpus, tokenizer="bytes", sample_bytes=options.sample_bytes)
    data = prepare(settings)
    by_seconds = {arm: trained(arm, f"{options.seconds}s", settings, options) for arm in ARMS}
    by_steps = {arm: trained(arm, f"{options.steps} steps", settings, options) for arm in ARMS}
    rows = step_rows(by_steps, data, options)
    more = table(*second_table(by_seconds, data, options))
    save_figure(draw(by_seconds, by_steps), RESULTS / "worker_claims.png")
    title = "The worker transformer's benchmarks: fair, and as published"
    size = f"{options.batch} x {options.context} tokens per step"
    notes = [
        f"After {options.steps} steps, {size}.",
        "",
        f"## At equal seconds, up to {options.seconds}",
        "",
        *more,
        "",
        "![Held-out loss of the three arms over seconds and over steps](worker_claims.png)",
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
    return train_run(recipe, data, settings, run_folder(arm, budget, options), display=display_for(Console()))


def step_rows(results: dict[str, RunResult], data: TokenData, options: argparse.Namespace) -> list[list[str]]:
    """One row per arm after equal steps, all tokens first and as published behind."""
    rows, base = [], None
    for arm, result in results.items():
        run = run_folder(arm, f"{options.steps} steps", options)
        losses = result.evaluation.nats_per_token, as_published(run, result.steps, result, data, options, "steps")
        base = base or losses
        fair, published = ([f"{loss:.4f}", f"{loss - first:+.4f}"] for loss, first in zip(losses, base, strict=True))
        rows.append([arm, f"{result.parameters:,}", *fair, by_phase(result), *published])
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
                run_folder(arm, f"{options.seconds}s", options), point.step, results[arm], data, options, "seconds"
            )
            for arm, point in zip(results, reached, strict=True)
        ]
        fair = compared([point.val_loss for point in reached])
        steps = [f"{loss} [{point.step}]" for loss, point in zip(fair, reached, strict=True)]
        rows.append([f"{due:g}", *steps, *compared(published)])
    return columns, rows


def compared(losses: list[float]) -> list[str]:
    """The first loss, and the others with their difference to it."""
    return [f"{losses[0]:.4f}", *(f"{loss:.4f} ({loss - losses[0]:+.4f})" for loss in losses[1:])]


def by_phase(result: RunResult) -> str:
    """Mean loss over the positions t of each t mod INTERVAL."""
    losses = np.array(result.evaluation.loss_by_position)
    return " ".join(f"{losses[phase::INTERVAL].mean():.3f}" for phase in range(INTERVAL))


def as_published(
    run: Path, step: int, result: RunResult, data: TokenData, options: argparse.Namespace, benchmark: str
) -> float:
    """The loss as published of the run's checkpoint at this step, kept beside the run once it is known."""
    kept = run / "losses_as_published.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if str(step) not in known:
        windows = PUBLISHED_BATCHES[benchmark] * options.batch
        known[str(step)] = loss_as_published(run / "checkpoints" / str(step), result, data, options, windows)
        write_atomically(kept, json.dumps(known))
    return float(known[str(step)])


@torch.no_grad()
def loss_as_published(
    checkpoint: Path, result: RunResult, data: TokenData, options: argparse.Namespace, windows: int
) -> float:
    """The founding project's validation loss: windows that move on by one token, worker models at workers only."""
    model: Decoder = load(checkpoint).eval()
    cast_parameters(model, result.precision)
    held_out = np.lib.stride_tricks.sliding_window_view(data.held_out, options.context + 1)[:windows].astype(np.int64)
    position = torch.arange(options.context)
    scored = torch.ones(options.context, dtype=torch.bool)
    if model.recipe.block.kind == "worker":
        scored = (position % INTERVAL == INTERVAL - 1) | (position == options.context - 1)
    total = 0.0
    with matmul_precision(result.precision), autocast(result.precision, torch.device("cpu")):
        for rows in torch.from_numpy(held_out).split(options.batch):
            total += float(model.token_losses(rows[:, :-1], rows[:, 1:])[:, scored].double().sum())
    return total / (len(held_out) * int(scored.sum()))


def draw(by_seconds: dict[str, RunResult], by_steps: dict[str, RunResult]) -> Figure:
    """Held-out loss on all tokens over seconds of training and over steps, a line per arm."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle("held-out loss, nats per token, all tokens", x=0.01, ha="left", fontsize=12)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, results, over in zip(panels, (by_seconds, by_steps), ("seconds", "step"), strict=True):
        for (arm, result), colour in zip(results.items(), COLORS, strict=False):
            points = [(getattr(point, over), point.val_loss) for point in result.curve]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, linewidth=1.4, label=arm)
        axes.set_xlabel({"seconds": "seconds of training", "step": "steps"}[over], loc="left")
        axes.grid(True, linewidth=0.4, alpha=0.4)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    main()
