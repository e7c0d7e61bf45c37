"""The call, the command, and the built-in recipes, which all pass."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import litmus
from litmus.auditing import CHECKS, AuditReport, audit
from litmus.cli import main
from litmus.model import build, resolve, save
from litmus.nn import Attention, Loss, Objective
from litmus.nn.layers.feedforwards import Swiglu, SwigluConfig

TINY = {"dim": 32, "heads": 2, "depth": 2, "vocab_size": 61, "context": 64}
DOCS = Path(__file__).parents[2] / "docs" / "audit.md"


def test_every_built_in_recipe_passes_every_check(distinct_recipe):
    report = audit(resolve(distinct_recipe, size="tiny", overrides=TINY), quick=True)
    assert {finding.name: finding.detail for finding in report.failed} == {}
    assert [finding.name for finding in report.findings] == ["forward pass", *CHECKS]
    assert report.mark() == ""


def test_a_full_audit_passes_too_and_measures_more():
    report, quick = (audit("standard", overrides=TINY, quick=quick, only=["causality"]) for quick in (False, True))
    assert report.passed and not report.quick
    assert sequences(report) > sequences(quick) > 10


def sequences(report: AuditReport) -> int:
    found = re.search(r"(\d+) sequences", report["causality"].detail)
    assert found is not None
    return int(found[1])


def test_litmus_audit_is_the_call_whatever_was_imported():
    code = "import litmus, litmus.auditing.report, litmus.auditing.audit, types; print(type(litmus.audit).__name__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout == "function\n", shown.stderr
    assert litmus.audit is audit


def test_a_saved_model_is_audited_with_its_weights(tmp_path):
    save(build("standard", **TINY), tmp_path / "saved")
    report = audit(tmp_path / "saved", quick=True, only=["loss at initialization", "determinism"])
    assert report.passed and report["loss at initialization"].status == "not applicable"


def test_the_command_prints_a_table_and_exits_with_0_or_1(capsys, tmp_path):
    small = [argument for key, value in TINY.items() for argument in ("--set", f"{key}={value}")]
    with pytest.raises(SystemExit) as ended:
        main(["audit", "standard", "--quick", "--only", "causality", *small])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert "quick audit of standard: 2 passed, 0 failed" in printed.out
    assert "standard: causality: pass" in printed.err
    specimen = Path(__file__).parents[2] / "specimens" / "f1_linformer_over_time.py"
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(specimen), "--quick", "--only", "causality", *small])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "layer 0 of 0..1, mixer (LinformerOverTime), position 0" in " ".join(printed.out.split())
    assert "litmus: f1_linformer_over_time fails audit: sees the future" in printed.err


def test_the_command_prints_json(capsys):
    small = [argument for key, value in TINY.items() for argument in ("--set", f"{key}={value}")]
    with pytest.raises(SystemExit):
        main(["audit", "standard", "nope", "--jobs", "2", "--quick", "--only", "determinism", "--json", *small])
    printed = capsys.readouterr()
    first, second = json.loads(printed.out)
    assert (first["subject"], first["passed"], second["subject"]) == ("standard", True, "nope")
    assert {"standard: determinism: pass", "nope: determinism: pass"} <= {*printed.err.splitlines()}


def test_the_command_refuses_what_it_cannot_audit(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["audit", "standart"])
    assert ended.value.code == 2 and "did you mean 'standard'" in capsys.readouterr().err


def test_the_documentation_states_what_each_check_asserts():
    text = DOCS.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", text, flags=re.M)
    assert headings == ["forward pass", *CHECKS]
    words = " ".join(text.split())
    for check in CHECKS.values():
        assert f"*{check.asserts}*" in words


class InSinglePrecision(Swiglu):
    """Casts to fp32, as much published code does."""

    def forward(self, x, ctx):
        gate, up = functional.linear(x.float(), self.gate_up.weight.float()).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, self.down.weight.float()).to(x.dtype)


class LossInSinglePrecision(Objective):
    """Plain cross-entropy of fp32 logits, and its own way to score."""

    def forward(self, model, batch, label_smoothing=0.0):
        logits, targets = model(batch).float(), batch.targets
        loss = functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="sum")
        return Loss(loss / (targets != -100).sum().clamp(min=1), {})

    @torch.no_grad()
    def token_losses(self, model, batch):
        logits, targets = model(batch).float(), batch.targets
        return functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")


class ZeroAtBirth(Attention):
    """Writes nothing into the residual stream at initialization."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        torch.nn.init.zeros_(self.out.weight)


def test_sound_models_that_are_written_otherwise_pass(small, feedforward, objective, mixer):
    single = feedforward(lambda config, layer_context: InSinglePrecision(SwigluConfig(hidden=64), layer_context))
    assert small(feedforward=single).failed == []
    assert small(objective=objective(LossInSinglePrecision)).failed == []
    assert small(mixer=mixer(ZeroAtBirth), head={"tied": False, "bias": True}).failed == []
