"""Determinism: models that throw dice, forget or remember."""

import re

import pytest
import torch

import litmus
from litmus.nn import Attention
from litmus.runtime import device
from tests.auditing.small_gpt import GPT

ONLY = ("determinism",)


class OutsideTheState(Attention):
    """A random scale that is neither a parameter nor a buffer."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.scale = 1 + torch.rand(())

    def forward(self, x, ctx):
        return self.scale * super().forward(x, ctx)


def test_a_model_that_does_not_survive_saving_fails_this_check_alone(small, mixer):
    report = small(mixer=mixer(OutsideTheState))
    assert [finding.name for finding in report.failed] == ["determinism"]
    assert report.mark() == "fails audit: does not survive saving"


class Unseeded(Attention):
    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        with torch.no_grad():
            self.out.weight.copy_(torch.randn(self.out.weight.shape, generator=FRESH))


FRESH = torch.Generator()


class DropsInEvaluation(Attention):
    def forward(self, x, ctx):
        return torch.nn.functional.dropout(super().forward(x, ctx), 0.5, training=True)


class Remembers(Attention):
    """Adds the mean of what it saw last time."""

    last = 0.0

    def forward(self, x, ctx):
        y = super().forward(x, ctx) + self.last
        self.last = float(x.mean())
        return y


@pytest.mark.parametrize(
    ("faulty", "mark"),
    [
        (Unseeded, "is not reproducible from its seed"),
        (DropsInEvaluation, "gives other scores each time"),
        (Remembers, "is not reproducible from its seed"),
    ],
)
def test_randomness_and_memory_are_caught(small, mixer, faulty, mark):
    assert small(only=ONLY, mixer=mixer(faulty)).mark() == f"fails audit: {mark}"


def test_a_model_that_ignores_its_seed_is_caught(small, mixer, monkeypatch):
    monkeypatch.setattr(device, "seed_devices_in_use", lambda seed: torch.default_generator.manual_seed(0))
    finding = small(only=ONLY)["determinism"]
    assert finding.mark == "ignores its seed"


def test_layers_that_start_alike_are_found_in_a_module():
    model = GPT()
    assert litmus.audit(model, quick=True, only=ONLY).passed
    model.h[1].load_state_dict(model.h[0].state_dict())
    finding = litmus.audit(model, quick=True, only=ONLY)["determinism"]
    assert finding.mark == "starts with equal layers"
    assert re.fullmatch(r"module\.h\.1\..* starts with the same random numbers as module\.h\.0\..*", finding.detail)


class CountsEvaluations(Attention):
    """A statistic for its next step, taken of evaluations as well."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, ctx):
        if ctx.cache is None:
            self.seen += float(x.detach().square().mean())
        return super().forward(x, ctx)


def test_training_that_depends_on_evaluations_is_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(CountsEvaluations))["determinism"]
    assert finding.mark == "trains otherwise when it is evaluated" and finding.where.endswith("seen")


class CountsInPython(Attention):
    """Its output grows with the steps, whose number is no buffer."""

    steps = 0

    def forward(self, x, ctx):
        return super().forward(x, ctx) * min(1.0, (self.steps + 1) / 100)

    def post_optimizer_step(self):
        self.steps += 1


class BeginsAnew(CountsInPython):
    """The factor is in a buffer; the number that it is computed from is not."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.register_buffer("factor", torch.tensor(0.01))

    def forward(self, x, ctx):
        return Attention.forward(self, x, ctx) * self.factor

    def post_optimizer_step(self):
        self.steps += 1
        self.factor.fill_(min(1.0, (self.steps + 1) / 100))


@pytest.mark.parametrize(("changed", "when"), [(CountsInPython, ""), (BeginsAnew, "after further steps ")])
def test_a_schedule_that_saving_loses_is_found(small, mixer, changed, when):
    finding = small(only=ONLY, mixer=mixer(changed))["determinism"]
    assert finding.mark == "does not survive saving"
    assert finding.detail.startswith(f"a saved and loaded model has {when}other logits")
