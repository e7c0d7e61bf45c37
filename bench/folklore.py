"""Four small changes that nanochat's public log of experiments keeps or rejects, each on trial against `standard`.

    python bench/folklore.py --runs folklore-runs   # 40 trials of half a minute or more; goes on where it was stopped

The log (github.com/karpathy/nanochat, dev/LOG.md) is of models of 100 million parameters and more, on a GPU. Writes its
page in docs/results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from measure import write_table
from rich.console import Console

import litmus
from litmus.claims.protocol import Compare, claim_named
from litmus.data import DataSettings
from litmus.training.settings import TrainSettings

EXAMPLES = Path(__file__).parent.parent / "examples"
ARMS: dict[str, tuple[str | Path | dict[str, Any], str]] = {
    "relu2": (
        {"name": "relu2", "base": "standard", "feedforward": {"kind": "relu2"}},
        "better than SwiGLU by steps, time and FLOPs (2026-02-05)",
    ),
    "qk-norm": (
        {"name": "qk-norm", "base": "standard", "mixer": {"qk_norm": True}},
        "used, without a trial of its own",
    ),
    "soft_capped_head": (
        EXAMPLES / "soft_capped_head.py",
        "caps from 10 to 30 about equal, 20 the best by 0.001 nats (2026-03-02)",
    ),
    "value_embeddings": (EXAMPLES / "value_embeddings.py", "helps a lot, by steps, FLOPs and time (2026-01-17)"),
}
"""The arms, and what the log says about them."""


def main() -> None:
    """Compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the comparison, kept")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    terms = next(one for one in claim_named("gated", "cpu").experiments if isinstance(one, Compare))
    done = litmus.compare(
        ["standard", *(arm for arm, _ in ARMS.values())],
        data=DataSettings(**terms.data),
        training=TrainSettings(**terms.training),
        size=terms.size,
        seeds=terms.seeds,
        lr_sweep=True,
        jobs=given.jobs,
        name="folklore",
        runs=given.runs,
        console=Console(stderr=True),
    )
    rows = []
    for verdict in done.verdicts:
        interval = verdict.difference
        found = "–" if interval is None else f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
        rows.append([f"`{verdict.arm}`", ARMS[verdict.arm][1], found, verdict.word])
    write_table(
        "folklore",
        "Small changes on trial",
        ["arm", "nanochat's log", "bits per byte, minus `standard`", "verdict"],
        rows,
        [
            f"At size {terms.size} on `{terms.data['corpus']}`: {terms.training['budget']}, {terms.seeds} seeds; "
            "a learning rate swept for each arm; intervals of 95 % together. `standard` has SwiGLU, with as many "
            "parameters as ReLU² of 4 times the width. The log's models are a hundred times as large and trained for "
            "thousands of times as many tokens."
        ],
    )


if __name__ == "__main__":
    main()
