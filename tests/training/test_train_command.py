"""`litmus train` and `litmus eval` as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from litmus.cli import main
from litmus.model import resolve

TOY = ["--set", "dim=32", "--set", "depth=2", "--set", "heads=2", "--context", "16", "--batch", "4", "--threads", "1"]


@pytest.fixture
def litmus(capsys, corpus, tmp_path, monkeypatch):
    """litmus("train", ...) -> (exit code, stdout, stderr), in an empty folder and on the small corpus."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.fixture(scope="session")
def passed():
    from litmus.audit import audit

    return audit(resolve("standard", overrides={"dim": 32, "depth": 2, "heads": 2}), quick=True)


@pytest.fixture
def train(litmus, corpus, passed, monkeypatch):
    """litmus("train", ...) of one tiny recipe; its audit, the same every time, is done once."""
    monkeypatch.setattr("litmus.audit.audit", lambda *arguments, **options: passed)
    return lambda *more: litmus("train", "standard", "--data", corpus, "--tokenizer", "bytes", *TOY, *more)


def test_train_writes_a_run_that_eval_scores(train, litmus):
    code, out, _ = train("--budget", "5 steps", "--precision", "fp32", "--name", "first")
    assert code == 0
    assert "precision fp32" in out
    assert "bits per byte" in out
    code, out, _ = litmus("eval", "runs/first", "--json")
    assert code == 0
    score = json.loads(out)
    assert score == json.loads(Path("runs/first/result.json").read_text())["evaluation"]
    code, out, _ = litmus("eval", "runs/first", "--limit-bytes", "100")
    assert code == 0
    assert "100 bytes" in out
    assert "attention entropy" in out


def test_dry_run_prints_the_plan_and_trains_nothing(train, tmp_path):
    code, out, _ = train("--budget", "5 steps", "--dry-run")
    assert code == 0
    assert "parameters" in out
    assert "learning rate over the budget" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--budget", "0"], "not a positive amount"),
        (["--budget", "5 epochs"], "unknown"),
        (["--option", "warm_up=0.1"], "did you mean 'warmup'"),
        (["--option", "warmup=2"], "warmup"),
        (["--precision", "fp8"], "precision"),
        (["--device", "abacus"], "cannot train"),
        (["--set", "heads=3"], "does not divide"),
        (["--budget", "1 step", "--context", "1000000"], "shorter than one window"),
        (["--tokenizer", "gtp2"], "unknown tokenizer"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(train, arguments, sentence):
    code, _, err = train(*arguments)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_with_another_run_is_refused(train):
    assert train("--budget", "2 steps")[0] == 0
    code, _, err = train("--budget", "3 steps")
    assert code == 2
    assert "runs/standard belongs to a run with training.budget = '2 steps'" in err


def test_a_diverged_training_exits_with_1_and_says_where(train, monkeypatch):
    from litmus.training.step import NotFinite, Stepper

    def fail(self, batches, lr):
        raise NotFinite("loss nan")

    monkeypatch.setattr(Stepper, "step", fail)
    code, _, err = train("--budget", "2 steps")
    assert code == 1
    assert "diverged at step 1" in err


def test_help_is_shown_without_importing_torch():
    program = """
import sys
from litmus.cli import main
try:
    main(["train", "--help"])
finally:
    print("torch" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stdout
    assert shown.strip().endswith("False")
    assert "Train one architecture" in shown
