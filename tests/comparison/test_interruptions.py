"""A comparison that is stopped in any way: its trials save and end, and the same command continues it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from litmus.comparison.audit_gate import AuditGate
from litmus.comparison.plan import resolve_arms
from litmus.locks import lock_file

PROGRAM = "from litmus.cli import main; main()"
WORDS = [
    "compare", "standard", "nope", "--data", "notes.txt", "--tokenizer", "bytes", "--name", "x", "--seeds", "2",
    "--no-noise", "--jobs", "2", "--threads", "1", "--batch", "4", "--context", "16", "--precision", "fp32",
    "--set", "dim=16", "--set", "depth=1", "--set", "heads=2",
    "--option", "validate_tokens=64", "--option", "evaluate_tokens=256", "--option", "checkpoint_every=null",
]  # fmt: skip
PATIENCE = 240
"""Seconds until a test fails, far more than a busy machine needs."""


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """The kept audits of both arms."""
    folder = tmp_path_factory.mktemp("audited")
    small = {"dim": 16, "depth": 1, "heads": 2}
    arms = resolve_arms(["standard", "nope"], size="tiny", context=16, overrides=small, vocab_size=257)
    gate = AuditGate(arms, folder, 1, Console(quiet=True))
    for arm in gate.missing:
        gate.audit(arm)
    assert gate.admitted == {"standard", "nope"}
    return folder / "audits"


@pytest.fixture
def start(tmp_path, audits):
    """start("--budget", "1h") -> the process of a comparison, which is killed at the end of the test."""
    shutil.copytree(audits, tmp_path / "runs" / "x" / "audits")
    draw, processes = random.Random(0), []
    words = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "after", "one", "small", "bird")
    (tmp_path / "notes.txt").write_text("".join(" ".join(draw.choices(words, k=7)) + ".\n" for _ in range(400)))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "LITMUS_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def start_comparison(*more):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *WORDS, *more],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"stderr-{len(processes)}").open("w"),
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # not ignored, as in a shell
        )
        process.errors = (tmp_path / f"stderr-{len(processes)}").read_text
        processes.append(process)
        return process

    yield start_comparison
    for process in processes:
        process.kill()
        process.wait()


def wait_for(fact, process=None):
    """Wait until fact() is true; the process, if given, must not end before."""
    limit = time.monotonic() + PATIENCE
    while not (found := fact()):
        assert time.monotonic() < limit, "waited too long"
        assert process is None or process.poll() is None, process.errors()
        time.sleep(0.05)
    return found


def trials(folder):
    return [folder / "runs" / "x" / "trials" / "arm" / arm / "seed-0" for arm in ("standard", "nope")]


def owner(trial):
    """The id of the process that holds the trial's lock, or None."""
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(lock_file(trial).read_text())[1].split()[1])


def training_process(trial, more_than=0):
    """The process that trains a trial, if its run has more than so many lines of metrics."""
    path = trial / "run" / "metrics.jsonl"
    return path.is_file() and len(path.read_bytes().splitlines()) > more_than and owner(trial)


def has_ended(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"


def metrics_lines(trial):
    return len((trial / "run" / "metrics.jsonl").read_bytes().splitlines())


def checkpoints(trial):
    return [path.name for path in (trial / "run" / "checkpoints").iterdir() if path.name.isdigit()]


def test_trials_end_with_a_comparison_that_was_killed_and_the_same_command_goes_on(start, tmp_path):
    first = start("--budget", "2h")
    children = [wait_for(lambda trial=trial: training_process(trial), first) for trial in trials(tmp_path)]
    second = start("--budget", "2h")
    assert second.wait(PATIENCE) == 2
    assert f"another process is comparing in runs/x (process {first.pid} on {socket.gethostname()}" in second.errors()

    first.kill()
    assert first.wait() == -signal.SIGKILL
    again = start("--budget", "2h")  # at once: the trials may still be saving
    for child in children:
        wait_for(lambda child=child: has_ended(child))
    assert all(checkpoints(trial) for trial in trials(tmp_path))
    reached = [metrics_lines(trial) for trial in trials(tmp_path)]
    for trial, before in zip(trials(tmp_path), reached, strict=True):
        wait_for(lambda trial=trial, before=before: training_process(trial, before), again)
    assert again.errors().count("resuming after step") == 2

    children = [owner(trial) for trial in trials(tmp_path)]
    os.kill(children[0], signal.SIGKILL)
    assert again.wait(PATIENCE) == 1
    assert "the trial of 'standard' with seed 0 was ended by SIGKILL" in again.errors()
    assert again.errors().splitlines()[-1].endswith("the same command continues from its last checkpoint")
    assert all(has_ended(child) for child in children)


def test_a_stopped_comparison_saves_and_says_what_is_kept(start, tmp_path):
    process = start("--budget", "2h")
    children = [wait_for(lambda trial=trial: training_process(trial), process) for trial in trials(tmp_path)]
    process.send_signal(signal.SIGTERM)  # SIGINT is sent below
    assert process.wait(PATIENCE) == 143
    assert process.errors().splitlines()[-1] == (
        "litmus: stopped; runs/x keeps the audits, 0 finished trials and the last checkpoints of the running ones; "
        "the same command continues from there"
    )
    assert process.stdout.read() == ""
    assert all(has_ended(child) for child in children)
    assert all(checkpoints(trial) for trial in trials(tmp_path))


def reproducible_results(folder):
    """What must be equal: everything in the trials except times and memory."""
    found = json.loads((folder / "runs" / "x" / "comparison.json").read_text())["trials"]
    for trial in found:
        for key in ("train_seconds", "tokens_per_second", "peak_memory_bytes"):
            del trial[key]
        for point in trial["curve"]:
            del point["seconds"]
    return found


def test_an_interrupted_comparison_ends_as_one_that_was_not_and_repeats_no_finished_trial(start, tmp_path):
    assert start("--budget", "40 steps").wait(PATIENCE) == 0
    undisturbed = reproducible_results(tmp_path)
    done = tmp_path / "runs" / "x" / "trials" / "arm"
    for trial in ("standard/seed-1", "nope/seed-0", "nope/seed-1"):
        shutil.rmtree(done / trial)

    process = start("--budget", "40 steps")
    wait_for(lambda: len(list(done.glob("*/*/outcome.json"))) > 1, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    times = {path: path.stat().st_mtime_ns for path in done.glob("*/*/outcome.json")}
    assert 1 < len(times) < 4
    assert f"{len(times)} finished trials" in process.errors()

    assert start("--budget", "40 steps").wait(PATIENCE) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert reproducible_results(tmp_path) == undisturbed


def test_the_first_line_comes_before_torch_is_imported(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import sys; print('torch', file=sys.stderr); sys.exit(3)")
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "compare"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stderr.splitlines() == ["comparing standard, ssmax, learned on stdlib: loading PyTorch", "torch"]
    assert done.returncode == 3
