"""Where the time of the default comparison goes: audits, training, validation and the rest of the trials.

    python bench/time_to_verdict.py                          # this checkout, some minutes on a quiet machine
    python bench/time_to_verdict.py --before ../older        # and another checkout, before it

Writes its page in docs/results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

ROOT = Path(__file__).parents[1]
COMMAND = "from litmus.cli import main; main()"


def seconds_of_parts(checkout: Path) -> dict[str, float]:
    """Seconds by part of `litmus compare` with the code of a checkout; those of trials are sums over all trials."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", COMMAND, "compare"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        wall = time.perf_counter() - started
        [comparison] = (Path(folder) / "runs").glob("*-vs-*")
        trials = [path.parent for path in comparison.glob("trials/**/outcome.json")]
        training = sum(json.loads((trial / "outcome.json").read_text())["train_seconds"] for trial in trials)
        lines = [line for trial in trials for line in (trial / "run" / "metrics.jsonl").read_text().splitlines()]
        validation = sum(json.loads(line)["timing"].get("validation_seconds", 0.0) for line in lines)
        whole = sum(
            (trial / "outcome.json").stat().st_mtime - (trial / "trial.json").stat().st_mtime for trial in trials
        )
        audits = sum(json.loads(path.read_text())["seconds"] for path in comparison.glob("audits/*/audit.json"))
    return {
        "wall": wall,
        "trials": len(trials),
        "training": training,
        "validation": validation,
        "start, score, sample, save": whole - training - validation,
        "audits": audits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, measured first")
    before = parser.parse_args().before
    sides = {**({"before": before.resolve()} if before else {}), "now": ROOT}
    found = {name: seconds_of_parts(checkout) for name, checkout in sides.items()}
    cores = os.cpu_count() or 1
    rows = [[part, *(f"{parts[part]:.0f}" for parts in found.values())] for part in next(iter(found.values()))]
    rows.append(
        [f"wall / (training / {cores} cores)", *(f"{p['wall'] * cores / p['training']:.2f}" for p in found.values())]
    )
    measure.write_table(
        "time_to_verdict",
        "Time to verdict of the default comparison",
        ["seconds", *found],
        rows,
        ["`litmus compare`, each in an empty folder. Parts of trials are sums over trials, which run one per core."],
    )


if __name__ == "__main__":
    main()
