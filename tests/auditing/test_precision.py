"""Precision: models that need more digits or more room than bf16 has."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import litmus
from litmus.auditing.checks.precision import bound
from litmus.nn import Attention, RMSNorm
from tests.auditing.small_gpt import GPT

ONLY = ("precision",)


class FarFromZero(RMSNorm):
    """Adds and takes away a large number: nothing in fp64, all digits in bf16."""

    def forward(self, x):
        return (super().forward(x) + 300.0) - 300.0


def test_a_model_that_needs_more_digits_than_bf16_has_fails_this_check_alone(small, norm):
    report = small(norm=norm(FarFromZero))
    assert [finding.name for finding in report.failed] == ["precision"]
    assert report.mark() == "fails audit: loses its precision in bf16"
    assert report["precision"].measured > report["precision"].tolerance == pytest.approx(bound(2), rel=0.02)


class PlainExponentials(Attention):
    """Softmax without taking the largest score away first."""

    def forward(self, x, ctx):
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).chunk(3, dim=2)
        weights = torch.einsum("bthd,bshd->bhts", q, k).exp().tril()
        return self.out((weights / weights.sum(-1, keepdim=True) @ v.transpose(1, 2)).transpose(1, 2).flatten(-2))


def test_an_overflow_at_larger_activations_is_caught(small, mixer):
    finding = small(only=ONLY, mixer=mixer(PlainExponentials))["precision"]
    assert finding.mark == "overflows" and "10 times larger activations" in finding.detail


class OneWrongToken(Attention):
    """A router at a near tie: in bf16 one token of many goes elsewhere."""

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        return y if y.dtype == torch.float64 else F.pad(y[:, 1:], (0, 0, 1, 0), value=3.0)


def test_one_token_that_goes_elsewhere_is_no_loss_of_precision(small, mixer):
    assert small(only=ONLY, mixer=mixer(OneWrongToken), depth=1).failed == []


class AnglesOf(Attention):
    """Rotary positions of its own, whose angles are computed in a type that `angle_type` names."""

    angle_type = torch.bfloat16

    def qkv_proj(self, x, ctx):
        q, k, v = super().qkv_proj(x, ctx)
        frequency = 10_000.0 ** (-torch.arange(q.shape[-1] // 2) / (q.shape[-1] // 2))
        angle = ctx.positions[..., None].to(self.angle_type) * frequency.to(self.angle_type)
        return self.rotated(q, angle[:, :, None]), self.rotated(k, angle[:, :, None]), v

    def rotated(self, x, angle):
        cos, sin, (a, b) = angle.cos().to(x.dtype), angle.sin().to(x.dtype), x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def test_angles_in_few_bits_are_found_beyond_the_positions_that_have_them_all(small, mixer, monkeypatch):
    parts = {"mixer": mixer(AnglesOf), "positions": {"kind": "none"}, "context": 1024}
    report = small(only=ONLY, **parts)
    assert report.mark() == "fails audit: loses its precision at late positions"
    assert "fp64 with its own casts" in report["precision"].detail
    monkeypatch.setattr(AnglesOf, "angle_type", torch.float32)
    assert small(only=ONLY, **parts).passed


class LogProbabilities(GPT):
    """Its logits are normalized: negative numbers whose spread is small beside their size at initialization."""

    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        return logits.log_softmax(-1), loss


def test_log_probabilities_are_judged_by_their_size_too():
    assert litmus.audit(LogProbabilities(), quick=True, only=ONLY).passed


class PowersOfADecay(Attention):
    """Sums by a^t · a^-s, which overflows beyond some length."""

    def forward(self, x, ctx):
        power = 0.7 * torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None]
        return super().forward(x, ctx) + 0.1 * power.neg().exp() * (power.exp() * x).cumsum(1)


def test_an_overflow_of_long_texts_in_fp32_is_found(small, mixer):
    finding = small(only=ONLY, mixer=mixer(PowersOfADecay), context=160)["precision"]
    assert finding.mark == "overflows" and "in fp32 the logits of a text of" in finding.detail


class WritesIntoABuffer(GPT):
    """Runs in any one type, and not under autocast, which mixes types."""

    def hidden(self, idx):
        x = super().hidden(idx)
        new = self.h[0].mlp(x)
        out = x.new_zeros(x.shape).index_put((torch.arange(len(x)),), new)
        return x + out


def test_a_module_that_does_not_run_under_autocast_is_judged_in_bf16():
    finding = litmus.audit(WritesIntoABuffer(), quick=True, only=ONLY)["precision"]
    assert (
        finding.status == "pass" and "not with bf16 autocast on cpu, in which the model does not run" in finding.detail
    )


class SumsLessLaterOnes(nn.Module):
    """Sums up to each token as the sum of all less that of the later ones, which do not cancel in bf16."""

    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x):
        values = self.map(x).bfloat16()
        later = values.flip(1).cumsum(1).flip(1) - values
        return (values.sum(1, keepdim=True) - later).to(x.dtype) / (1 + torch.arange(x.shape[1])[:, None])


def test_later_tokens_that_rounding_carries_to_earlier_positions_are_found(small):
    report = small(only=ONLY, mixer=SumsLessLaterOnes)
    assert report.mark() == "fails audit: sees the future by rounding"


class OffsetByLength(nn.Module):
    """Adds a large number to bf16 values and takes it away again: early tokens lose digits in long texts."""

    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x):
        values = self.map(x).bfloat16()
        offset = x.shape[1] ** 2 / 1000
        return ((values + offset) - offset).to(x.dtype)


def test_digits_that_early_tokens_lose_in_long_texts_are_found(small):
    finding = small(only=ONLY, mixer=OffsetByLength, context=500)["precision"]
    assert finding.mark == "loses its precision in long texts" and "the first 125 of 500 positions" in finding.detail


class FourierFilter(GPT):
    """A causal filter by FFT, which PyTorch does not have in bf16."""

    def hidden(self, idx):
        x = super().hidden(idx)
        size, decay = 2 * x.shape[1], 0.5 ** torch.arange(x.shape[1], dtype=x.dtype)[:, None]
        spectrum = torch.fft.rfft(x, n=size, dim=1) * torch.fft.rfft(decay, n=size, dim=0)
        return torch.fft.irfft(spectrum, n=size, dim=1)[:, : x.shape[1]]


def test_an_operator_that_does_not_exist_in_bf16_is_no_fault():
    finding = litmus.audit(FourierFilter(), quick=True, only=ONLY)["precision"]
    assert finding.status == "pass" and "not with bf16 on cpu, in which the model does not run" in finding.detail
