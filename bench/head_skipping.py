"""Speed of a training step on threads: the head computes logits where a target is scored, against everywhere.

Rows are like those of threads: windows of 110 tokens, of which 16 % are targets.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from measure import interleaved, spread, write_table

from litmus.data.sampler import PackedBatch
from litmus.model import build
from litmus.training import TrainSettings, train_step
from litmus.training.train_step import TrainStep

ROWS, CONTEXT, WINDOW, TARGETS = 4, 440, 110, 18
CASES = (
    ("standard", "tiny", 4096),
    ("roleplay", "tiny", 4096),
    ("standard", "tiny", 50257),
    ("roleplay", "tiny", 50257),
)


def batch_of(vocabulary: int) -> PackedBatch:
    """Rows of windows, of which the last TARGETS tokens are scored."""
    tokens = torch.randint(vocabulary, (ROWS, CONTEXT + 1))
    place = torch.arange(CONTEXT) % WINDOW
    targets = tokens[:, 1:].where(place >= WINDOW - TARGETS, -100)
    documents = (torch.arange(CONTEXT) // WINDOW).expand(ROWS, CONTEXT)
    return PackedBatch(tokens[:, :-1], targets, list(range(ROWS)), documents.contiguous())


def main() -> None:
    """Measure, and write docs/results/head_skipping.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    most = train_step._max_scored
    rows = []
    for name, size, vocabulary in CASES:
        model = build(name, size=size, vocab_size=vocabulary, overrides={"context": CONTEXT})
        step, batch = TrainStep(model, TrainSettings(), "fp32", 0), batch_of(vocabulary)

        def everywhere(step: TrainStep = step, batch: PackedBatch = batch) -> None:
            train_step._max_scored = lambda targets: None
            step.step([batch], 1e-4)

        def where_scored(step: TrainStep = step, batch: PackedBatch = batch) -> None:
            train_step._max_scored = most
            step.step([batch], 1e-4)

        found = interleaved({"everywhere": everywhere, "scored": where_scored}, rounds)
        seconds = [f"{1000 * statistics.median(found[side]):.0f}" for side in ("everywhere", "scored")]
        rows.append((name, f"{vocabulary:,}", *seconds, spread(found["everywhere"], found["scored"])))
    title = "Training step on threads: logits everywhere, and only where a target is scored"
    columns = ("recipe (tiny)", "vocabulary", "everywhere, ms", "where scored, ms", "times faster")
    share = f"{ROWS} x {CONTEXT} tokens, {TARGETS / WINDOW:.0%} of them targets; medians of {rounds} rounds."
    write_table("head_skipping", title, columns, rows, [share])


if __name__ == "__main__":
    main()
