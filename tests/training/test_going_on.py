"""A training begun twice, given more budget, stopped by a signal, stopped by a full disk: what is kept, who goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from litmus.errors import BadInput
from litmus.training.display import Display
from litmus.training.run.loading import load_run
from litmus.training.run.result import read_result
from litmus.training.trainer import Interrupted

TRAINER = """
import json, os, resource, signal, sys
from pathlib import Path
from litmus import process
from litmus.data import DataSettings, prepare
from litmus.training import TrainSettings, trainer
from litmus.training.display import Display

class Shown(Display):
    def __init__(self, job):
        self.job = job
    def step(self, status):
        print(status.step, flush=True)
        if status.step == self.job.get("at"):
            for _ in range(self.job["times"]):
                os.kill(os.getpid(), self.job["signal"])
    def log(self, text):
        print(text, flush=True)

def child(job, barrier):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job["told"] + "." + name, os.O_WRONLY | os.O_CREAT), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.stdin = open(os.devnull)
    process.begin()
    if "limit" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    os.read(barrier, 1)
    settings, data = TrainSettings(**job["settings"]), DataSettings(**job["data"])
    work = lambda: trainer.train_run(job["recipe"], data, settings, job["folder"], display=Shown(job)) and None
    code = process.run(work)
    sys.stdout.flush()
    os._exit(code)

for line in sys.stdin:
    barrier, start = os.pipe()
    children = []
    for job in json.loads(line):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(start)
            child(job, barrier)
    os.close(barrier)
    os.close(start)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]), flush=True)
"""
"""Trains each line's jobs at the same moment in processes of their own: forked, as an import of torch takes seconds."""


class Recorder(Display):
    def __init__(self):
        self.notes, self.steps = [], []

    def step(self, status):
        self.steps.append(status.step)

    def log(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def trainer(session_folder):
    command, environment = (
        [sys.executable, "-c", TRAINER],
        {**os.environ, "LITMUS_CACHE": str(session_folder / "cache")},
    )
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    yield process
    process.communicate()


@pytest.fixture
def begin(trainer, recipe, data, data_settings, tmp_path):
    """begin({"settings": ...}, ...) trains all at the same moment and gives (exit code, stdout, stderr) of each."""
    usual = {"batch": 4, "context": 16, "threads": 1, "precision": "fp32", "validate_tokens": 64, "evaluate_tokens": 64}

    def start(*jobs):
        told = [tmp_path / f"told-{os.urandom(8).hex()}" for _ in jobs]
        whole = [
            {"recipe": recipe, "data": data_settings.model_dump(), "told": str(files), "times": 1}
            | job
            | {"folder": str(tmp_path / job.get("folder", "run")), "settings": usual | job["settings"]}
            for job, files in zip(jobs, told, strict=True)
        ]
        trainer.stdin.write(json.dumps(whole) + "\n")
        trainer.stdin.flush()
        codes = json.loads(trainer.stdout.readline())
        texts = [[files.with_name(f"{files.name}.{name}").read_text() for name in ("out", "err")] for files in told]
        return [(code, *text) for code, text in zip(codes, texts, strict=True)]

    return start


def test_of_trainings_begun_at_the_same_moment_in_one_folder_exactly_one_trains(begin, tmp_path):
    for number in range(3):
        folder = tmp_path / str(number)
        ends = begin(*[{"folder": str(number), "settings": {"budget": "5 steps"}}] * 3)
        trained = [end for end in ends if end[1].startswith("1\n")]
        assert len(trained) == 1 and trained[0][0] == 0, ends
        for code, out, err in ends:
            if (code, out, err) not in trained:  # refused while the first one trains, or told that it has ended
                assert code == 2 or "already trained" in out, ends
                assert code == 0 or f"another process is training in {folder} (process" in err
        steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [event["step"] for event in steps if event["kind"] == "train"] == list(range(1, 6))


@pytest.mark.parametrize(
    ("number", "times", "code"),
    [(signal.SIGINT, 1, 130), (signal.SIGTERM, 1, 143), (signal.SIGHUP, 2, 143)],  # a terminal and its shell send two
)
def test_a_stopped_training_saves_and_its_exit_code_tells_the_signal(number, times, code, begin, tmp_path):
    ((found, _, err),) = begin({"settings": {"budget": "9 steps"}, "at": 3, "signal": number, "times": times})
    assert found == code, err
    assert err == "litmus: stopped after step 3 and saved; the same command resumes it\n"
    assert load_run(tmp_path / "run").step == 3


def test_a_hangup_that_was_ignored_stays_ignored(quick):
    class HangUp(Recorder):
        def step(self, status):
            super().step(status)
            signal.raise_signal(signal.SIGHUP)

    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        display = HangUp()
        quick(display=display, budget="3 steps")
        assert display.steps == [1, 2, 3]
    finally:
        signal.signal(signal.SIGHUP, usual)


@pytest.fixture
def hangup_ends_a_process():
    """The usual answer to SIGHUP, which nohup has this process ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield signal.SIG_DFL
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_saves(quick, tmp_path, hangup_ends_a_process):
    class HangUp(Recorder):
        def step(self, status):
            super().step(status)
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)

    with pytest.raises(Interrupted) as raised:
        quick(display=HangUp())
    assert raised.value.exit_code == 143
    assert load_run(tmp_path / "run").step == 1
    assert signal.getsignal(signal.SIGHUP) == hangup_ends_a_process


def test_work_is_saved_by_the_clock_too_and_that_changes_nothing(quick, events, tmp_path, monkeypatch):
    saved = []

    class Watching(Recorder):
        def step(self, status):
            folder = tmp_path / "often" / "checkpoints"
            saved.append(max((int(path.name) for path in folder.glob("[0-9]*")), default=0) if folder.exists() else 0)

    quick("often", checkpoint_minutes=1e-9, validate_every=20, display=Watching())
    assert saved == list(range(20))
    quick("never", checkpoint_minutes=None, validate_every=20)
    assert events("often") == events("never")
    often, never = load_run(tmp_path / "often"), load_run(tmp_path / "never")
    assert all(
        (one == other).all() for one, other in zip(often.model.parameters(), never.model.parameters(), strict=True)
    )


def test_a_larger_budget_goes_on_from_the_end_and_run_yaml_tells_of_it(quick, events, tmp_path):
    settings = {"schedule": "constant", "warmup": 0.0, "validate_every": 20}
    first = quick(budget="20 steps", **settings)
    display = Recorder()
    second = quick(budget="40 steps", display=display, **settings)
    assert display.steps == list(range(21, 41))
    assert (first.steps, second.steps) == (20, 40)
    assert read_result(tmp_path / "run") == second
    written = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert written["training"]["budget"] == "40 steps"
    assert [extension["earlier_budget"] for extension in written["extensions"]] == ["20 steps"]
    whole = quick("whole", budget="40 steps", **settings)
    assert events("run") == events("whole")
    assert second.evaluation == whole.evaluation


def test_a_stopped_training_can_be_extended_and_the_extension_stopped(quick, tmp_path):
    class Stop(Recorder):
        def step(self, status):
            super().step(status)
            if status.step == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

    for budget, at in (("20 steps", 7), ("40 steps", 23)):
        display = Stop()
        display.at = at
        with pytest.raises(Interrupted):
            quick(budget=budget, display=display)
    display = Recorder()
    quick(budget="0.04k steps", display=display)  # the same amount
    assert display.steps == list(range(24, 41))
    assert quick(budget="40 steps").steps == 40


@pytest.mark.parametrize("budget", ["19 steps", "9M tokens", "90s"])
def test_a_smaller_budget_or_one_in_another_unit_is_refused(budget, quick, tmp_path):
    quick()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match=r"training\.budget = '20 steps'.*can be made larger in the same unit"):
        quick(budget=budget)
    with pytest.raises(BadInput, match=r"training\.lr = 0\.003"):
        quick(budget="40 steps", lr=0.1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_gate_is_asked_in_the_run_folder_before_the_first_step_and_may_refuse(quick, recipe, data, tmp_path):
    from litmus.training import TrainSettings
    from litmus.training.trainer import train_run

    def refuse(resolved, folder):
        assert (folder / "run.yaml").exists() and not (folder / "metrics.jsonl").exists()
        assert resolved.vocab_size == data.tokenizer.vocab_size
        raise BadInput("not this one")

    from litmus.data import DataSettings

    settings = TrainSettings(budget="1 step", batch=4, context=16, threads=1, evaluate_tokens=16, validate_tokens=16)
    corpus = DataSettings(corpus=data.provenance["corpus"], tokenizer="bytes")
    with pytest.raises(BadInput, match="not this one"):
        train_run(recipe, corpus, settings, str(tmp_path / "run"), gate=refuse)
    assert quick(budget="1 step").steps == 1


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_a_file_system_that_takes_no_more_leaves_what_was_saved(limit, begin, tmp_path):
    """The largest file a process may write is bounded, as a quota or a full disk would bound it."""
    job = {"settings": {"budget": "40 steps", "checkpoint_every": 1}}
    ((code, _, err),) = begin({**job, "limit": limit})
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "cannot be written: File too large" in err
    ((code, _, err),) = begin(job)
    assert code == 0, err
    assert load_run(tmp_path / "run").step == 40


@pytest.mark.parametrize("moment", ["replace", "rmtree", "mkdtemp"])
def test_killed_while_it_removes_old_checkpoints_a_training_goes_on(moment, quick, tmp_path, events, monkeypatch):

    from litmus import files
    from litmus.training import trainer

    class Killed(BaseException):
        pass

    def kill(*arguments, **options):
        raise Killed

    plain = trainer.prune

    def prune(folder, keep_last):
        if len([path for path in folder.iterdir() if path.name.isdigit()]) > 2:
            module = {"replace": files.os, "rmtree": shutil, "mkdtemp": tempfile}[moment]
            with monkeypatch.context() as patch:
                patch.setattr(module, moment, kill)
                plain(folder, keep_last)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "prune", prune)
        with pytest.raises(Killed):
            quick(keep_last=1)
    quick(keep_last=1)
    quick("whole", keep_last=1)
    assert events("run") == events("whole")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())


@contextlib.contextmanager
def as_a_user():
    """Root, who may read everything, is nobody in this block."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_may_not_be_read_is_one_sentence_and_no_checkpoint_is_given_up_for_it(quick, tmp_path):
    quick()
    load_run(tmp_path / "run")  # what this imports cannot be read by everybody
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "run"
        shutil.copytree(tmp_path / "run", run)
        for path in [Path(home), *run.rglob("*"), run]:
            path.chmod(0o755)
        for name in ("run.yaml", "checkpoints/20/model.safetensors", "checkpoints/20/manifest.json", "checkpoints"):
            (run / name).chmod(0)
            with as_a_user(), pytest.raises(BadInput, match="cannot be read: Permission denied"):
                load_run(run)
            (run / name).chmod(0o755)
