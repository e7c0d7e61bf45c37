"""Equivalence: fast paths that compute something else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.checks.equivalence import compared
from litmus.model import resolve
from litmus.nn import Attention

ONLY = ("equivalence",)


class RoughlyFast(Attention):
    """Its fast path is off by a millionth."""

    def forward(self, x, ctx):
        return super().forward(x, ctx) * (1 + 1e-6 * (not ctx.use_reference))


def test_a_fast_path_that_is_off_fails_this_check_alone(small, mixer):
    report = small(mixer=mixer(RoughlyFast))
    assert [finding.name for finding in report.failed] == ["equivalence"]
    assert report.mark() == "fails audit: computes something else on its fast path"


class WrongGradient(Attention):
    """The fast path gives the right result and half of its gradient."""

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y if ctx.use_reference else y.detach() + 0.5 * (y - y.detach())


def test_a_wrong_gradient_is_caught_and_its_parameter_named(small, mixer):
    finding = small(only=ONLY, mixer=mixer(WrongGradient))["equivalence"]
    assert finding.status == "fail" and "in its gradients" in finding.detail
    assert finding.where.startswith("layers.1.mixer.")


class HookedGradient(Attention):
    """Both paths give the right result and twice its gradient."""

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        if y.requires_grad:
            y.register_hook(lambda gradient: 2 * gradient)
        return y


def test_a_gradient_that_is_no_derivative_is_caught_in_a_recipe(small, mixer):
    finding = small(only=ONLY, mixer=mixer(HookedGradient))["equivalence"]
    assert finding.status == "fail" and finding.mark == "has a wrong gradient"
    assert finding.where.startswith("layers.1.mixer") and "is off by 0.5 of the derivative" in finding.detail


SUBJECT = DecoderTarget(
    resolve("standard", overrides={"dim": 16, "heads": 2, "depth": 1, "vocab_size": 17, "context": 70}), quick=True
)


@settings(max_examples=25)
@given(batch=st.integers(1, 4), length=st.integers(1, 70), packed=st.booleans())
def test_the_built_in_fast_paths_equal_their_references_at_any_shape(batch, length, packed):
    torch.manual_seed(0)
    forward, gradient, place = compared(SUBJECT.model, SUBJECT, batch, length, packed)
    assert forward < 1e-12 and gradient < 1e-10 and place == ""
