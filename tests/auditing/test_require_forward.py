"""What a plug-in does outside the audit is one sentence too: in benchmarks, dry runs and trainings of failed arms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from litmus.cli import main
from litmus.errors import BadInput, Failed
from litmus.model import build, plugins, resolve, training_flops_per_token
from litmus.model.costs import meta_model

PLUGIN = """
import os, sys, time
from typing import Literal
from litmus.nn import Attention, AttentionConfig

class Config(AttentionConfig):
    kind: Literal["{kind}"] = "{kind}"

    def build(self, layer):
        {build}
        return Mixer(self, layer)

class Mixer(Attention):
    def forward(self, x, ctx):
        {forward}
        return super().forward(x, ctx)

recipe = {{"base": "standard", "dim": 32, "heads": 2, "depth": 1, "vocab_size": 257, "mixer": {{"kind": "{kind}"}}}}
"""


@pytest.fixture
def plugin(tmp_path: Path):
    def written(forward: str = "pass", build: str = "pass") -> Path:
        path = tmp_path / "my_idea.py"
        path.write_text(PLUGIN.format(kind=f"outside_{abs(hash((forward, build)))}", forward=forward, build=build))
        return path

    return written


def typed(capsys, *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return ended.value.code, capsys.readouterr().err.strip()


FORWARD = {
    "return None": "it crashed: TypeError",
    "raise ValueError('a bug\\n\\x1b[31m')": "it crashed: ValueError: a bug",
    "return self.forward(x, ctx)": "it crashed: RecursionError",
    "sys.exit(0)": "it crashed: SystemExit: 0",
    "os._exit(0)": "its process ended by itself with exit code 0",
}


@pytest.mark.parametrize("forward", FORWARD)
def test_a_dry_run_and_a_benchmark_say_what_the_forward_pass_does(forward, plugin, capsys):
    command = ["bench", "decode"] if "None" in forward or "_exit" in forward else ["train", "--dry-run"]
    code, said = typed(capsys, *command, str(plugin(forward)))
    assert code == 1 and len(said.splitlines()) == 1
    assert f"{plugin(forward)} has no working forward pass: {FORWARD[forward]}" in said


def test_a_forward_pass_that_fails_with_a_cache_only_is_named_by_the_benchmark(plugin, capsys):
    path = plugin("assert ctx.cache is None, 'no cache'")
    code, said = typed(
        capsys, "bench", "decode", str(path), "--prompt-tokens", "8", "--batch", "1", "--new-tokens", "2"
    )
    assert code == 1
    assert f"the plug-in {path} failed in decoding my_idea: AssertionError: no cache (line 15)" in said


def test_no_failed_arm_is_trained_that_has_no_forward_pass(plugin, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("some words to learn from, again and again\n" * 400)
    data = ("--data", "text.txt", "--tokenizer", "bytes", "--keep-failed")
    path = plugin("return None")
    code, said = typed(capsys, "train", str(path), *data)
    assert code == 1 and "my_idea has no working forward pass, so that nothing can be trained: it crashed" in said
    code, said = typed(capsys, "compare", str(path), "standard", *data, "--budget", "2 steps")
    assert (
        code == 1 and "no arm is left to compare, as a model without a working forward pass cannot be trained" in said
    )
    assert not list(tmp_path.rglob("trial.json")) and not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("build_line", "said"), [("1 / 0", "ZeroDivisionError: division by zero"), ("sys.exit(0)", "SystemExit: 0")]
)
def test_a_plugin_that_cannot_be_built_is_named_with_the_line(build_line, said, plugin):
    path = plugin(build=build_line)
    with pytest.raises(Failed, match=rf"the plug-in {path} failed in building my_idea: {said} \(line 10\)"):
        build(path)


def test_building_and_declaring_may_not_take_for_ever(plugin, monkeypatch):
    monkeypatch.setattr("litmus.model.MAX_PLUGIN_SECONDS", 0.5)
    with pytest.raises(Failed, match=r"building my_idea of the plug-in .*my_idea.py took more than 0.5 s"):
        build(plugin(build="while True: pass"))
    monkeypatch.setattr("litmus.model.costs.MAX_PLUGIN_SECONDS", 0.5)
    for use in (meta_model, training_flops_per_token):
        with pytest.raises(Failed, match=r"building my_idea of the plug-in .*my_idea.py took more than 0.5 s"):
            use(resolve(plugin(build="while True: pass")))
    monkeypatch.setattr(plugins, "MAX_PLUGIN_SECONDS", 0.5)
    path = plugin()
    path.write_text("while True:\n    pass\n")
    with pytest.raises(BadInput, match=r"my_idea.py was still running after 0.5 s \(line [12]\) and was stopped"):
        resolve(path)


def test_a_process_with_limited_memory_is_refused_more_than_is_free():
    program = """
import torch
from litmus.runtime.memory import limit_memory
limit_memory()
held = []
try:
    for _ in range(1000):
        held.append(torch.empty(10**10, dtype=torch.uint8))  # not touched, so that nothing is really taken
except RuntimeError as error:
    print("refused")
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux says how much memory is free")
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "refused\n"
