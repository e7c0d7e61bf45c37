"""`litmus train` and `litmus eval` as a user types them."""

import json
import os
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
    from litmus.auditing import audit

    return audit(resolve("standard", overrides={"dim": 32, "depth": 2, "heads": 2}), quick=True)


@pytest.fixture
def train(litmus, corpus, passed, monkeypatch):
    """litmus("train", ...) of one tiny recipe; its audit, the same every time, is done once."""
    monkeypatch.setattr("litmus.runs.audit", lambda *arguments, **options: passed)

    def call(*more):
        return litmus(*call.words(*more))

    call.words = lambda *more: ["train", "standard", "--data", corpus, "--tokenizer", "bytes", *TOY, *more]
    return call


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


def test_a_trained_run_goes_through_every_command_that_uses_one(train, litmus, corpus):
    assert train("--budget", "5 steps", "--precision", "fp32", "--name", "first")[0] == 0
    written = ["--prompt", "the ", "--max-new-tokens", "8", "--temperature", "0", "--device", "cpu"]
    code, text, _ = litmus("generate", "runs/first", *written)
    assert code == 0 and len(text) > 1
    scored = litmus("eval", "runs/first", "--data", corpus, "--json")
    assert scored[0] == 0
    assert litmus("export", "runs/first", "--out", "out")[0] == 0
    assert litmus("import", "out", "--name", "back")[0] == 0
    assert litmus("generate", "runs/back", *written)[:2] == (0, text)
    again = json.loads(litmus("eval", "runs/back", "--data", corpus, "--json")[1])  # in windows of the whole context
    assert again["bits_per_byte"] == pytest.approx(json.loads(scored[1])["bits_per_byte"], rel=1e-3)
    assert train("--budget", "5 steps", "--precision", "fp32", "--name", "first")[0] == 0
    code, out, _ = litmus("train", "runs/back", "--data", corpus, "--budget", "2 steps", "--name", "on", *TOY[6:])
    assert code == 0 and "bits per byte" in out


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
    code, _, err = train("--budget", "2 steps", "--lr", "0.1")
    assert code == 2
    assert "runs/standard belongs to a run with training.lr = 0.003, and 0.1 was asked for" in err


def test_a_diverged_training_exits_with_1_and_says_where(train, monkeypatch):
    from litmus.training.train_step import NotFinite, TrainStep

    def fail(self, batches, lr):
        raise NotFinite("loss nan")

    monkeypatch.setattr(TrainStep, "step", fail)
    code, _, err = train("--budget", "2 steps")
    assert code == 1
    assert "diverged at step 1" in err


def test_an_interrupted_training_has_its_audit_and_a_resume_does_not_repeat_it(train, passed, monkeypatch):
    from litmus.training.train_step import TrainStep

    asked = []
    monkeypatch.setattr("litmus.runs.audit", lambda recipe, **options: asked.append(recipe) or passed)

    def stop(self, batches, lr):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "step", stop)
        assert train("--budget", "2 steps")[0] == 130
    assert json.loads(Path("runs/standard/audit.json").read_text())["passed"]
    assert train("--budget", "2 steps")[0] == 0
    assert train("--budget", "2 steps")[0] == 0
    assert len(asked) == 1
    Path("runs/standard/audit.json").write_text("{")
    assert train("--budget", "2 steps")[0] == 0
    assert train("--budget", "2 steps", "--name", "other", "--set", "dropout=0.1")[0] == 0
    assert [recipe.dropout for recipe in asked] == [0.0, 0.0, 0.1]


def test_a_run_that_failed_its_audit_says_so_again_at_once_and_gives_way_to_a_mended_recipe(train, passed, monkeypatch):
    asked = []

    def fails(recipe, **options):
        asked.append(recipe)
        findings = [passed.findings[0].model_copy(update={"status": "fail", "mark": "sees the future"})]
        return passed.model_copy(update={"findings": findings}) if recipe.dropout == 0 else passed

    monkeypatch.setattr("litmus.runs.audit", fails)
    for _ in range(2):
        code, _, err = train("--budget", "2 steps")
        assert (code, len(asked)) == (1, 1)
        assert "fails audit: sees the future" in err
    assert train("--budget", "2 steps", "--set", "dropout=0.1")[0] == 0
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["run", "link"])
def test_a_folder_of_other_things_is_refused_and_stays(name, train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "run" / "run.yaml").write_text("of: another program\n")
    (tmp_path / "run" / "recipe.yaml").write_text("cake\n")
    code, _, err = train("--budget", "2 steps", "--folder", name)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert f"{name}/run.yaml cannot be read" in err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["recipe.yaml", "run.yaml"]


def test_a_full_disk_behind_the_output_costs_no_result(train, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["litmus", *train.words("--budget", "5 steps")])
    child = os.fork()  # as a command begins and ends, with what the fixtures have prepared
    if child == 0:
        try:
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
            os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT), 2)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            main()
        except SystemExit as ended:
            sys.stderr.flush()
            os._exit(ended.code or 0)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    said = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert said == "litmus: standard output cannot be written: No space left on device"
    assert json.loads(Path("runs/standard/result.json").read_text())["steps"] == 5


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


def test_train_writes_a_report_and_says_where_in_the_folder_of_runs_that_is_named(train):
    code, out, _ = train("--budget", "5 steps", "--precision", "fp32", "--runs", "elsewhere", "--name", "first")
    assert code == 0 and "report: elsewhere/first/report.html" in out
    page = Path("elsewhere/first/report.html").read_text(encoding="utf-8")
    assert "5 steps" in page and "passes its audit" in page
    shown = subprocess.run(
        [sys.executable, "-m", "litmus", "runs", "list", "--runs", "elsewhere", "--json"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0 and [entry["name"] for entry in json.loads(shown.stdout)] == ["first"]
