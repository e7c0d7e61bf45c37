"""`litmus train` audits before it trains: nothing is scored before it is audited."""

import json
from pathlib import Path

import pytest

from litmus.cli import main

LEAKY = str(Path(__file__).parents[2] / "specimens" / "f1_linformer_over_time.py")
TERMS = [
    "--tokenizer", "bytes", "--set", "dim=16", "--set", "depth=1", "--set", "heads=2", "--context", "16",
    "--batch", "4", "--threads", "1", "--budget", "2 steps", "--folder", "run",
]  # fmt: skip


@pytest.fixture
def train(capsys, corpus, tmp_path, monkeypatch):
    """train("standard", ...) -> (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(recipe, *more):
        with pytest.raises(SystemExit) as ended:
            main(["train", recipe, "--data", corpus, *TERMS, *more])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def kept():
    return json.loads(Path("run/audit.json").read_text())


def test_a_model_that_fails_its_audit_is_not_trained_and_with_keep_failed_not_scored(train):
    code, _, err = train(LEAKY)
    assert code == 1
    assert "fails audit: sees the future" in err and "--keep-failed" in err
    assert not Path("run/result.json").exists() and not list(Path("run").glob("checkpoints/*"))
    assert not kept()["passed"]

    code, _, err = train(LEAKY, "--keep-failed")
    assert code == 1
    assert "so this is not a score" in err
    assert Path("run/result.json").exists() and not kept()["passed"]


def test_a_run_keeps_its_audit_and_a_repeated_command_does_not_make_it_again(train):
    assert train("standard")[0] == 0
    first = Path("run/audit.json").stat().st_mtime_ns
    assert (kept()["subject"], kept()["passed"]) == ("standard", True)
    assert train("standard")[0] == 0
    assert Path("run/audit.json").stat().st_mtime_ns == first
