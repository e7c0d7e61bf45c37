"""Killed at any moment and resumed, a training equals one that was never interrupted, bit for bit on the CPU."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from litmus.errors import BadInput
from litmus.training.display import Display
from litmus.training.run.loading import load_run

PROGRAM = """
import sys
from pathlib import Path
from litmus.data import DataSettings
from litmus.training import TrainSettings
from litmus.training.trainer import train_run
import json
job = json.loads(sys.argv[1])
train_run(job["recipe"], DataSettings(**job["data"]), TrainSettings(**job["settings"]), Path(job["folder"]),
      sample=lambda model, tokenizer: str(model.norm.weight.sum().item()))
"""
BUSY = {"validate_every": 4, "checkpoint_every": 3, "sample_every": 5, "validate_tokens": 64, "evaluate_tokens": 128}


def weight_as_text(model, tokenizer):
    return str(model.norm.weight.sum().item())


def start(job):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(job)], stderr=subprocess.PIPE, text=True)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def newest(folder):
    return max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def outcome(folder, events):
    """All that must be equal: events without timing, final weights, and the score."""
    weights = load_file(folder / "checkpoints" / str(newest(folder)) / "model.safetensors")
    result = json.loads((folder / "result.json").read_text())
    return events(folder.name), weights, result["evaluation"], result["sample"]


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert one[2:] == other[2:]


def test_killed_at_random_moments_it_ends_the_same(quick, recipe, data, data_settings, tmp_path, events):
    settings = {"budget": "60 steps", "batch": 4, "context": 16, "threads": 1, "precision": "bf16", **BUSY}
    quick("whole", **settings, sample=weight_as_text)
    job = {
        "recipe": recipe,
        "data": data_settings.model_dump(),
        "settings": settings,
        "folder": str(tmp_path / "killed"),
    }
    metrics = tmp_path / "killed" / "metrics.jsonl"
    whole = size_of(tmp_path / "whole" / "metrics.jsonl")
    for part in range(2):
        process = start(job)
        until = whole * (part + random.random()) / 2  # a new moment in every run of this test
        while size_of(metrics) < until and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    process = start(job)
    assert process.wait() == 0, process.stderr.read()
    assert_same(outcome(tmp_path / "killed", events), outcome(tmp_path / "whole", events))
    leftovers = [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir() if not path.name.isdigit()]
    assert leftovers == []


class Kept(Display):
    """Copies the run folder as it is after one step: what a kill at that moment would leave."""

    def __init__(self, folder, step):
        self.folder, self.at, self.notes = folder, step, []

    def step(self, status):
        if status.step == self.at:
            shutil.copytree(self.folder, self.folder.with_name("copy"))

    def log(self, text):
        self.notes.append(text)


@pytest.fixture
def interrupted(quick, tmp_path):
    """A run of 20 steps, whole in "run", and as it stood just after step 13 in "copy"."""
    quick("run", checkpoint_every=4, display=Kept(tmp_path / "run", 13))
    return tmp_path / "copy"


def go_on(quick, folder):
    display = Kept(folder, -1)
    quick(folder.name, checkpoint_every=4, display=display)
    return display.notes


def test_it_goes_on_from_the_newest_checkpoint(interrupted, quick, tmp_path, events):
    notes = go_on(quick, interrupted)
    assert any("resuming after step 12" in note for note in notes)
    assert_same(outcome(interrupted, events), outcome(tmp_path / "run", events))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_with_its_newest_checkpoint_truncated_it_goes_on_from_the_one_before(
    name, interrupted, quick, tmp_path, events
):
    damaged = interrupted / "checkpoints" / "12" / name
    damaged.write_bytes(damaged.read_bytes()[:-5])
    notes = go_on(quick, interrupted)
    assert any("checkpoint 12 is damaged" in note and "using checkpoint 8" in note for note in notes)
    assert_same(outcome(interrupted, events), outcome(tmp_path / "run", events))


def test_with_its_metrics_cut_inside_a_line_it_writes_the_rest_again(interrupted, quick, tmp_path, events):
    path = interrupted / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    go_on(quick, interrupted)
    assert_same(outcome(interrupted, events), outcome(tmp_path / "run", events))


def test_killed_before_its_first_checkpoint_it_starts_over(interrupted, quick, tmp_path, events):
    shutil.rmtree(interrupted / "checkpoints")
    go_on(quick, interrupted)
    assert_same(outcome(interrupted, events), outcome(tmp_path / "run", events))


def test_with_every_checkpoint_damaged_it_stops_rather_than_start_over(interrupted, quick):
    for path in interrupted.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"no checkpoint in .* can be used"):
        go_on(quick, interrupted)
    with pytest.raises(BadInput, match=r"no checkpoint in .* can be used"):
        load_run(interrupted)


def test_the_thread_count_it_began_with_is_kept(quick, tmp_path, monkeypatch):
    seen = []
    display = Kept(tmp_path / "run", -1)
    monkeypatch.setattr(display, "step", lambda status: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    quick(threads=2, display=display, budget="1 step", validate_tokens=16, evaluate_tokens=16)
    assert set(seen) == {2}
    assert torch.get_num_threads() == before
