"""Loss at initialization: models that are sure too early, and layers that fade or explode."""

import pytest
import torch
from torch import nn

from litmus.auditing import audit
from litmus.model import build
from litmus.nn import Attention, RMSNorm

ONLY = ("loss at initialization",)


class Loud(RMSNorm):
    """Puts out vectors 16 times as large as it should; that is undone by training."""

    def __init__(self, width):
        super().__init__(width)
        nn.init.constant_(self.weight, 16.0)


def test_a_model_that_is_sure_at_birth_fails_this_check_alone(small, norm):
    report = small(norm=norm(Loud), depth=1)
    assert [finding.name for finding in report.failed] == ["loss at initialization"]
    assert report.mark() == "fails audit: is miscalibrated at initialization"
    assert report["loss at initialization"].measured > 0.5


class Growing(Attention):
    """Writes ever larger vectors into the residual stream, layer by layer."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.loudness = 20.0**layer_context.index

    def forward(self, x, ctx):
        return self.loudness * x


@pytest.mark.parametrize("depth", [4, 12])
def test_layers_that_multiply_their_signal_are_caught(small, mixer, depth):
    finding = small(only=ONLY, mixer=mixer(Growing), depth=depth)["loss at initialization"]
    assert finding.mark.endswith("vanish or explode with depth")
    assert f"layer {depth - 1} largest" in finding.where


def test_a_trained_model_is_not_judged_by_how_it_was_born():
    model = build("standard", dim=32, heads=2, depth=1, vocab_size=61)
    with torch.no_grad():
        model.embedding.weight.mul_(50)
    assert audit(model, quick=True, only=ONLY)["loss at initialization"].status == "not applicable"
