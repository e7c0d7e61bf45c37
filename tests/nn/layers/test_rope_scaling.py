"""Facts about RoPE slowed down for longer contexts."""

from __future__ import annotations

import math

import pytest
import torch

from litmus.errors import BadInput
from litmus.model import build
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.layers.positions import Rotation
from litmus.nn.layers.rope_scaling import Llama3Scaling, RopeScaling, YarnScaling

THETA, WIDTH, CONTEXT = 10_000.0, 64, 256
PLAIN = THETA ** (-torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
BOTH = pytest.mark.parametrize("kind", [Llama3Scaling, YarnScaling])


@BOTH
def test_fast_turns_stay_and_slow_ones_are_stretched_by_the_factor(kind: type[RopeScaling]) -> None:
    scaling = kind(factor=8, context=CONTEXT)
    scaled = scaling.scaled(PLAIN, THETA)
    turns = CONTEXT * PLAIN / (2 * math.pi)
    high = 4 if kind is Llama3Scaling else 32
    assert torch.equal(scaled[turns > high], PLAIN[turns > high]) and (turns > high).any()
    slow = turns < (1 if kind is Llama3Scaling else 0.75)  # YaRN's border lies on a whole pair
    torch.testing.assert_close(scaled[slow], PLAIN[slow] / 8)
    assert (scaled.diff() < 0).all(), "the order of the frequencies stays"


@BOTH
def test_a_factor_of_one_is_plain_rope(kind: type[RopeScaling]) -> None:
    torch.testing.assert_close(kind(factor=1, context=CONTEXT).scaled(PLAIN, THETA), PLAIN)


def test_halfway_between_the_borders_llama3_is_the_mean_of_both() -> None:
    turning = torch.tensor([2.5 * 2 * math.pi / CONTEXT], dtype=torch.float64)
    scaled = Llama3Scaling(factor=4, context=CONTEXT).scaled(turning, THETA)
    torch.testing.assert_close(scaled, turning * (1 + 1 / 4) / 2)


def test_rotation_turns_by_the_scaled_frequencies_and_lengthens_by_the_amplitude() -> None:
    scaling = YarnScaling(factor=4, context=CONTEXT, amplitude=1.25)
    ctx = ForwardContext(torch.tensor([[0, 7, 300]]), 0)
    x = torch.randn(1, 3, 2, WIDTH, dtype=torch.float64)
    turned = Rotation(WIDTH, THETA, scaling)(x, ctx)
    first, second = x.chunk(2, -1)
    angle = ctx.positions[0, :, None, None] * scaling.scaled(PLAIN, THETA)
    expected = torch.polar(torch.full_like(angle, 1.25), angle) * torch.complex(first, second)
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1))
    plain = Rotation(WIDTH, THETA)(x, ctx)  # the same step: tables of another rotation must not be taken for these
    torch.testing.assert_close(plain.norm() * 1.25, turned.norm())


def test_an_unknown_scaling_is_refused() -> None:
    with pytest.raises(BadInput, match="unknown scaling kind 'ntk'; valid: llama3, yarn"):
        build("standard", overrides={"positions.scaling": {"kind": "ntk", "factor": 2, "context": 64}})
