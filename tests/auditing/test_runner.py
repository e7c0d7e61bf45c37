"""Whatever the audited code does, it becomes a finding."""

import contextlib
import sys
import time

import pytest
import torch

from litmus.auditing import audit
from litmus.errors import BadInput
from litmus.model import build
from litmus.nn import Attention, Loss, Objective

ONLY = ("causality",)


class Crashes(Attention):
    def forward(self, x, ctx):
        raise RuntimeError("a bug\nin my idea")


class Exits(Attention):
    def forward(self, x, ctx):
        sys.exit(3)


class Loops(Attention):
    def forward(self, x, ctx):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)


class WrongShape(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx)[:, :-1]


class NotANumber(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx) / (x.shape[1] < 50)


class NoneAtAll(Attention):
    def forward(self, x, ctx):
        return None


class CannotBeBuilt(Attention):
    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.missing  # noqa: B018


@pytest.mark.parametrize(
    ("faulty", "mark", "said"),
    [
        (Crashes, "crashes", "RuntimeError: a bug in my idea"),
        (Exits, "crashes", "SystemExit: 3"),
        (Loops, "hangs or is too slow to check", "no result within 1 s"),
        (WrongShape, "gives logits of the wrong shape", "returns (1, 0, 61) for tokens (1, 1)"),
        (NotANumber, "gives logits that are not finite", "NaN or infinite logits for 80 random tokens"),
        (NoneAtAll, "crashes", "TypeError"),
        (CannotBeBuilt, "crashes", "AttributeError"),
    ],
)
def test_a_model_without_a_working_forward_pass_gets_one_finding(small, mixer, faulty, mark, said):
    report = small(mixer=mixer(faulty), limit=1)
    assert report.mark() == f"fails audit: {mark}"
    (finding,) = report.failed
    assert finding.name == "forward pass" and said in finding.detail
    assert {other.status for other in report.findings if other is not finding} == {"not applicable"}


def test_a_crash_names_the_line_of_the_users_code(small, mixer):
    assert small(mixer=mixer(Crashes))["forward pass"].where.startswith("forward, test_runner.py line ")


class NoLoss(Objective):
    def forward(self, model, batch, label_smoothing=0.0):
        return Loss(super().forward(model, batch, label_smoothing).total.log() * float("inf"), {})


def test_a_loss_that_is_not_finite_is_named(small, objective):
    assert small(objective=objective(NoLoss)).mark() == "fails audit: gives a loss that is not finite"


def test_logits_of_the_wrong_shape_are_named(monkeypatch):
    model = build("standard", dim=32, heads=2, depth=1, vocab_size=61)
    model.head = torch.nn.Linear(32, 60)
    assert audit(model, quick=True, only=ONLY).mark() == "fails audit: gives logits of the wrong shape"


class CrashesInDecoding(Attention):
    def forward(self, x, ctx):
        if ctx.cache is not None:
            raise KeyError("cache")
        return super().forward(x, ctx)


def test_a_crash_in_one_check_leaves_the_others_alone(small, mixer):
    report = small(mixer=mixer(CrashesInDecoding), only=("prefix consistency", "cache parity"))
    assert report["prefix consistency"].status == "pass"
    assert report["cache parity"].mark == "crashes" and "KeyError" in report["cache parity"].detail


def test_a_live_model_is_left_as_it_was(small):
    model = build("standard", dim=32, heads=2, depth=1, vocab_size=61, context=40).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert audit(model, quick=True).passed
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_audited_is_bad_input():
    with pytest.raises(BadInput, match="unknown recipe 'standart'; did you mean 'standard'"):
        audit("standart")
    with pytest.raises(BadInput, match="unknown check 'casuality'; did you mean 'causality'"):
        audit("standard", only=["casuality"])
    with pytest.raises(BadInput, match="heads = 3 does not divide dim = 32"):
        audit("standard", overrides={"dim": 32, "heads": 3})
