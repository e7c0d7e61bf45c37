"""What the worker block's options are worth at equal seconds, judged over seeds. Writes worker_options.md.

    python bench/worker_options.py --corpus tinyshakespeare.txt

Two questions: how many queries training should ask, and whether tokens that are no workers should keep their embedding
(as published) or also add a learned share of what the layer reads. The worker recipe is the baseline of the comparison;
the gated model without workers is there to be seen beside it. Goes on where it was stopped. Let nothing else run beside
it: the budget is time.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from measure import write_table

import litmus
from litmus.comparison.report.formatting import format_interval, format_si, verdict_sentence
from litmus.comparison.report.summary import ArmSummary, summarize
from litmus.comparison.results import ComparisonResult
from litmus.data import DataSettings
from litmus.training import TrainSettings

ARMS: list[str | dict[str, Any]] = [
    "worker",
    {"base": "worker", "name": "half the queries", "objective": {"queries": 0.5}},
    {"base": "worker", "name": "a quarter of them", "objective": {"queries": 0.25}},
    {"base": "worker", "name": "residual others", "block": {"others": "residual"}},
    {"base": "standard", "name": "no workers, gated", "mixer": {"gate": {"kind": "elementwise"}}},
]
COLUMNS = ("arm", "tokens seen", "FLOPs per token", "per scored token", "bits per byte", "difference", "verdict")


def main() -> None:
    """Compare the arms and write docs/results/worker_options.md."""
    options = arguments()
    torch.set_num_threads(options.threads)
    comparison = litmus.compare(
        ARMS,
        data=DataSettings(corpus=options.corpus, tokenizer="bytes", sample_bytes=options.sample_bytes),
        training=TrainSettings(budget=options.budget, context=options.context, threads=options.threads),
        size=options.size,
        seeds=options.seeds,
        noise=False,
        name="worker_options",
        runs=options.folder,
    )
    summaries = summarize(comparison.result)
    title = f"The worker block's options after {options.budget} of training"
    notes = [
        f"Size {options.size}, context {options.context}, bytes; ± is the 95 % interval over {options.seeds} seeds.",
        "",
        *(f"- {verdict_sentence(summary.verdict)}" for summary in summaries if summary.verdict),
    ]
    rows = [row(summary, comparison.result) for summary in summaries]
    write_table("worker_options", title, COLUMNS, rows, notes)


def row(summary: ArmSummary, result: ComparisonResult) -> list[str]:
    """One arm: how many tokens its time was enough for, what they cost, and what they were worth."""
    tokens = statistics.median(trial.run.tokens for trial in result.scored(summary.arm))
    verdict, cells = summary.verdict, ["", "baseline"]
    if verdict is not None and verdict.difference is not None and not summary.is_baseline:
        cells = [" ".join(format_interval(verdict.difference, sign=True)), verdict.word]
    score = " ".join(format_interval(summary.bits_per_byte)) if summary.bits_per_byte else "none"
    costs = (tokens, summary.flops_per_token, summary.flops_per_scored_token)
    return [summary.arm, *(format_si(cost) for cost in costs), score, *cells]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="stdlib")
    parser.add_argument("--sample-bytes", type=int, help="use only the first so many bytes of the corpus")
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
