"""Breaks ten lines that matter most, one at a time in a copy of the tree, and shows the test that fails for each.

python tests/mutations.py            # exit code 1 if a mutant survives
python tests/mutations.py trust
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

TREE = Path(__file__).parents[1]
PARTS = ("litmus", "tests", "specimens", "examples", "docs", "README.md", "pyproject.toml")


class Mutation(NamedTuple):
    """One line of `file`, what replaces it, and the test file in which a test must fail."""

    file: str
    line: str
    replacement: str
    test: str


MUTATIONS = {
    "audit gate": Mutation(
        "litmus/comparison/audit_gate.py",
        "return {arm: report.mark() for arm, report in reports.items() if not report.passed}",
        "return {}",
        "tests/comparison/test_compare.py",
    ),
    "pairing": Mutation(
        "litmus/comparison/verdicts.py",
        "return [(first, by_seed[first.seed]) for first in firsts if first.seed in by_seed]",
        "return list(zip(firsts, seconds))",
        "tests/comparison/test_verdicts.py",
    ),
    "noise role": Mutation(
        "litmus/comparison/plan.py",
        'init = 1 if role == "noise" else self._copy_number(arm)',
        "init = self._copy_number(arm)",
        "tests/comparison/test_compare.py",
    ),
    "data order": Mutation(
        "litmus/data/sampler.py",
        "np.random.Philox(key=[self.seed, epoch])",
        "np.random.Philox(key=[self.seed, 0])",
        "tests/data/test_sampler.py",
    ),
    "loss mask": Mutation(
        "litmus/nn/objectives/cross_entropy.py",
        "total += nats.masked_fill(~is_scored, 0).sum()",
        "total += nats.sum()",
        "tests/nn",
    ),
    "cache write": Mutation(
        "litmus/nn/core/cache.py",
        "buffer[rows, ctx.positions[rows, columns]] = new[rows, columns]",
        "buffer[rows, columns] = new[rows, columns]",
        "tests/test_contract.py",
    ),
    "verdict rule": Mutation(
        "litmus/comparison/verdicts.py",
        "levels = holm([estimate.p_value for estimate in estimates], 1 - confidence, level)",
        "levels = [1 - confidence] * len(estimates)",
        "tests/comparison/test_verdicts.py",
    ),
    "resume": Mutation(
        "litmus/training/trainer.py",
        "torch.manual_seed(seed_for(settings.seed, self.usage.steps))",
        "pass",
        "tests/training/test_resume.py",
    ),
    "trust": Mutation(
        "litmus/model/plugins.py",
        "if not trusted and not is_trusted(source.sha256):",
        "if False:",
        "tests/model/test_trust.py",
    ),
    "identity": Mutation(
        "litmus/auditing/report.py",
        "return cls.from_json(text) if same else None",
        "return cls.from_json(text)",
        "tests/auditing/test_report.py",
    ),
}


def failing_test(mutation: Mutation) -> str:
    """The first test that fails with the mutation; empty if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in PARTS:
            source = TREE / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / part)
        file = tree / mutation.file
        text = file.read_text()
        assert text.count(mutation.line) == 1, f"{mutation.file} has changed: update {Path(__file__).name}"
        file.write_text(text.replace(mutation.line, mutation.replacement))
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", mutation.test]
        environment = {**os.environ, "PYTHONPATH": folder}
        ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if ended.returncode not in (0, 1) or bool(ended.returncode) != bool(failed):
        raise RuntimeError(ended.stdout[-3000:] + ended.stderr[-1000:])
    return failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""


def main() -> int:
    survivors = 0
    for name in sys.argv[1:] or MUTATIONS:
        failed = failing_test(MUTATIONS[name])
        survivors += not failed
        print(f"{name:14}{failed or 'SURVIVES: no test fails'}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
