"""A plug-in file is audited in a process of its own, which it may hang or kill."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litmus.auditing import audit, workers
from litmus.errors import BadInput
from litmus.model import build, resolve, save

PLUGIN = """
import os, signal, time
from typing import Literal
from litmus.nn import Attention, AttentionConfig

class Config(AttentionConfig):
    kind: Literal["{kind}"] = "{kind}"

    def build(self, layer):
        return Mixer(self, layer)

class Mixer(Attention):
    def forward(self, x, ctx):
        print("forward")
        {fault}
        return super().forward(x, ctx)

recipe = {{"base": "standard", "dim": 32, "heads": 2, "depth": 1, "vocab_size": 61, "mixer": {{"kind": "{kind}"}}}}
"""
CHECKS = ("prefix consistency", "cache parity", "position parity")


@pytest.fixture
def plugin(tmp_path):
    def written(fault: str) -> Path:
        path = tmp_path / "my_idea.py"
        path.write_text(PLUGIN.format(kind=f"isolated_{abs(hash(fault))}", fault=fault))
        return path

    return written


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_in_one_check_costs_that_check_alone(plugin, jobs):
    path = plugin("ctx.cache is not None and x.shape[1] == 3 and os.kill(os.getpid(), signal.SIGSEGV)")
    report = audit(path, quick=True, only=CHECKS, jobs=jobs)
    assert [finding.name for finding in report.findings] == ["forward pass", *CHECKS]
    assert [finding.status for finding in report.findings] == ["pass", "pass", "fail", "pass"]
    assert report.mark() == "fails audit: kills its process"
    assert report["cache parity"].detail == "its process was ended by SIGSEGV"


def test_an_interrupted_audit_ends_its_processes_in_the_middle_of_a_check(plugin, tmp_path):
    began = tmp_path / "began"
    path = plugin(f"open({str(began)!r}, 'w'); time.sleep(600)")
    command = [sys.executable, "-c", "from litmus.cli import main; main()", "audit", str(path), "--limit", "600"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background jobs ignore it
    ) as running:
        while not began.exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130


def test_code_that_cannot_be_interrupted_is_stopped_from_outside(plugin, monkeypatch):
    monkeypatch.setattr(workers, "STARTUP_SECONDS", 8.0)
    report = audit(
        plugin("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM});  time.sleep(99)"),
        quick=True,
        only=CHECKS,
        limit=1,
    )
    assert report.mark() == "fails audit: hangs"
    assert {finding.status for finding in report.findings[1:]} == {"not applicable"}


def test_audited_code_reads_nothing_of_the_requests(plugin):
    """Names of checks come by the same process's stdin."""
    report = audit(plugin("import sys; assert not sys.stdin.read()"), quick=True, only=CHECKS, jobs=2)
    assert report.passed, report


def test_processes_that_share_the_checks_find_what_one_finds(plugin):
    path = plugin("x = x + 1e-3 * x.mean(1, keepdim=True)")
    alone, shared = (audit(path, quick=True, only=CHECKS, jobs=jobs) for jobs in (1, 3))
    assert not alone.passed
    assert [(found.name, found.status, found.detail) for found in shared.findings] == [
        (found.name, found.status, found.detail) for found in alone.findings
    ]


def test_a_file_that_does_not_run_gets_a_finding(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import litmus\n1 / 0\n")
    report = audit(path, quick=True, only=CHECKS)
    assert report.subject == "broken"
    assert report.failed[0].detail == "the model cannot be built: ZeroDivisionError: division by zero"
    assert report.failed[0].where == "<module>, broken.py line 2"


def test_a_file_that_is_no_plug_in_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="there is no plug-in file"):
        audit(tmp_path / "missing.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(BadInput, match="defines no recipe"):
        audit(tmp_path / "empty.py")


def test_a_resolved_recipe_and_a_saved_model_of_a_plug_in_are_audited_apart_too(plugin, tmp_path, capfd):
    path = plugin("x.shape[1] == 7 and os._exit(5)")
    assert audit(resolve(path), quick=True, only=CHECKS)["forward pass"].detail == (
        "its process ended by itself with exit code 5"
    )
    save(build(path), tmp_path / "saved")
    assert audit(tmp_path / "saved", quick=True, only=CHECKS).mark() == "fails audit: kills its process"
    assert capfd.readouterr().out == ""  # what the plug-in prints never mixes with the answers
