"""How often a real comparison of an architecture with itself ends in a difference: false calls of the verdict rule.

    python bench/aa_comparisons.py --runs aa-runs   # a minute per comparison; continues

Each comparison trains `standard` and a copy of it, which starts from other weights, on three data orders of its own.
Writes its page in docs/results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
from rich.console import Console
from scipy.stats import binomtest

import litmus
from litmus.comparison.compare import DEFAULT_TRAINING
from litmus.model import resolve

SEEDS = 3
STEPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the comparisons, kept")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    rows, called = [], 0
    for number in range(given.comparisons):
        training = DEFAULT_TRAINING.model_copy(
            update={"budget": f"{STEPS} steps", "seed": 1000 * number, "threads": 1, "precision": "fp32"}
        )
        done = litmus.compare(
            ["standard", resolve("standard")],
            training=training,
            seeds=SEEDS,
            jobs=given.jobs,
            name=f"aa-{number:02}",
            runs=given.runs,
            console=Console(stderr=True),
        )
        [verdict] = done.verdicts
        interval = verdict.difference
        assert interval is not None
        called += verdict.word != "no difference shown"
        rows.append([number, f"{interval.mean:+.4f}", f"{interval.half:.4f}", verdict.word])
    rate = binomtest(called, given.comparisons).proportion_ci(0.95, "exact")
    measure.write_table(
        "aa_comparisons",
        "Comparisons of an architecture with itself",
        ["comparison", "difference, bpb", "± (95 %)", "verdict"],
        rows,
        [
            f"{called} of {given.comparisons} call a difference, where 5 % are allowed (95 % interval of the rate: "
            f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %). `standard` at size tiny on `stdlib`, "
            f"{STEPS} steps, {SEEDS} paired seeds."
        ],
    )


if __name__ == "__main__":
    main()
