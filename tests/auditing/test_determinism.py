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
