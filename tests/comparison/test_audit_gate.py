"""Audits before trials: which arms may be trained, and when."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from litmus.auditing import AuditReport, Finding
from litmus.comparison.audit_gate import AuditGate
from litmus.comparison.executors.local import run_trials
from litmus.comparison.plan import Plan, resolve_arms
from litmus.data import DataSettings, prepare
from litmus.errors import Failed
from litmus.training import TrainSettings

SMALL = {"dim": 16, "depth": 1, "heads": 2}
TRAINING = TrainSettings(
    budget="2 steps", batch=4, context=16, precision="fp32", threads=1, validate_tokens=64, evaluate_tokens=256
)
QUIET = Console(quiet=True)
PATIENCE = 240
"""Seconds until a test fails, far more than a busy machine needs."""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Three arms on a small text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "notes.txt").write_text("the cat sat on a mat while two dogs ran after one bird.\n" * 400)
    data = DataSettings(corpus="notes.txt", tokenizer="bytes")
    arms = resolve_arms(["standard", "nope", "ssmax"], size="tiny", context=16, overrides=SMALL, vocab_size=257)
    return Plan(arms, data, prepare(data).fingerprint, TRAINING, noise=False, lr_sweep=False, prompt="")


@pytest.fixture
def keep(plan, tmp_path):
    """keep(standard="pass", nope="fail"): kept audits of these arms with that result."""

    def save(**statuses):
        for arm, status in statuses.items():
            finding = Finding(name="causality", status=status, detail="", mark="sees the future")
            report = AuditReport(subject=arm, quick=True, findings=[finding])
            report.save(tmp_path / "runs" / "x" / "audits" / arm, plan.arms[arm])
        return tmp_path / "runs" / "x"

    return save


@pytest.mark.parametrize(
    ("kept", "admitted"),
    [
        ({"standard": "pass"}, set()),
        ({"nope": "pass", "ssmax": "pass"}, set()),
        ({"standard": "pass", "nope": "fail"}, set()),
        ({"standard": "pass", "nope": "pass"}, {"standard", "nope"}),
        ({"standard": "pass", "nope": "fail", "ssmax": "pass"}, {"standard", "ssmax"}),
    ],
)
def test_no_trial_begins_before_the_baseline_and_another_arm_have_passed(plan, keep, kept, admitted):
    gate = AuditGate(plan.arms, keep(**kept), 1, QUIET)
    assert gate.admitted == admitted
    assert gate.missing == [arm for arm in plan.arms if arm not in kept]


@pytest.mark.parametrize(
    "kept", [{"standard": "fail"}, {"standard": "pass", "nope": "fail", "ssmax": "fail"}], ids=("baseline", "others")
)
def test_nothing_is_trained_where_nothing_would_be_left_to_compare(plan, keep, kept):
    with pytest.raises(Failed, match="sees the future"):
        AuditGate(plan.arms, keep(**kept), 1, QUIET)


def test_trials_of_admitted_arms_run_beside_a_later_audit_and_those_that_fail_are_left_out(plan, keep):
    folder = keep(standard="pass", nope="pass")
    trials = plan.trials(dict.fromkeys(plan.arms, 0.01), range(2))
    started = folder / trials[0].subfolder / "outcome.json"

    class AfterTheFirstTrial(AuditGate):
        def audit(self, arm):
            limit = time.monotonic() + PATIENCE
            while not started.exists():
                assert time.monotonic() < limit, "no trial runs while an audit does"
                time.sleep(0.05)
            keep(**{arm: "fail"})
            self._reports[arm] = self._kept(arm)

    gate, events = AfterTheFirstTrial(plan.arms, folder, 2, QUIET), []
    results = run_trials(trials, folder, jobs=2, on_event=lambda spec, event: events.append((spec, event)), gate=gate)
    assert [(result.arm, result.seed) for result in results] == [
        ("standard", 0), ("nope", 0), ("standard", 1), ("nope", 1),
    ]  # fmt: skip
    assert [(spec.arm, spec.seed) for spec, event in events if "left_out" in event] == [("ssmax", 0), ("ssmax", 1)]
    assert gate.skipped == {"ssmax"}
