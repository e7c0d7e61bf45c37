"""A wheel built from the tree works away from it: recipes, page template and style are inside."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing in it but the package, installed from its wheel; built offline, without dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True, cwd=folder)
    (built,) = folder.glob("litmus_lm-*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(built)]
    subprocess.run(install, check=True, cwd=folder)
    return folder / "site"


def run(installed, folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(installed), "LITMUS_CACHE": str(folder / "cache")}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_recipe_and_the_parts_of_the_report_are_in_the_wheel(installed):
    parts = {"recipes": "*.yaml", "claims/protocols": "*.yaml", "comparison/report": "*", "interop/hf": "*.txt"}
    for folder, pattern in parts.items():
        ours = {path.name for path in (ROOT / "litmus" / folder).glob(pattern) if path.is_file()}
        assert ours and {path.name for path in (installed / "litmus" / folder).iterdir()} >= ours


def test_an_installed_wheel_runs_a_comparison(installed, tmp_path):
    draw = random.Random(0)
    text = "".join(" ".join(draw.choices(("the", "cat", "sat", "on", "a", "mat"), k=7)) + ".\n" for _ in range(300))
    (tmp_path / "notes.txt").write_text(text)
    where = run(installed, tmp_path, sys.executable, "-c", "import litmus; print(litmus.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed)
    done = run(
        installed, tmp_path, sys.executable, str(installed / "bin" / "litmus"),
        "compare", "standard", "nope", "--data", "notes.txt", "--tokenizer", "bytes", "--seeds", "2", "--no-noise",
        "--budget", "4 steps", "--batch", "2", "--context", "16", "--set", "dim=16", "--set", "depth=1",
        "--set", "heads=2", "--option", "evaluate_tokens=64", "--option", "validate_tokens=64", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = tmp_path / json.loads(done.stdout)["report"]
    assert "<style>" in report.read_text(encoding="utf-8")
