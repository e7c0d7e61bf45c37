"""The causality check finds every way in which something later, or something beside, gets in."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from litmus.auditing import audit
from litmus.model import resolve
from litmus.nn import Attention, AuxLosses, Loss, Objective, with_aux_losses
from litmus.nn.attention import spaced
from litmus.nn.attention.banded import Window
from litmus.nn.attention.compressed_blocks import Layout
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.layers.feedforwards import Swiglu, SwigluConfig

ONLY = ("causality",)
TINY = {"dim": 32, "heads": 2, "depth": 2, "vocab_size": 61, "context": 64}


def one_too_many(visible):
    """`visible`, but every query (B, 1, T, S) may read what the next one may."""

    def leaking(*given, **named):
        mask = visible(*given, **named)
        return mask | F.pad(mask[..., 1:, :], (0, 0, 0, 1))

    return leaking


def test_a_mask_that_is_off_by_one_position_is_caught_in_every_recipe(monkeypatch, distinct_recipe):
    monkeypatch.setattr(ForwardContext, "attention_mask", one_too_many(lambda self, window=None: self._mask(window)))
    monkeypatch.setattr(Layout, "visible", one_too_many(Layout.visible))
    monkeypatch.setattr(Window, "visible", one_too_many(Window.visible))
    monkeypatch.setattr(spaced, "visible", one_too_many(spaced.visible))
    report = audit(resolve(distinct_recipe, size="tiny", overrides=TINY), quick=True, only=ONLY)
    finding = report["causality"]
    if distinct_recipe == "mod":  # what its tokens see one place further depends on how many other rows have chosen
        assert report.mark() == "fails audit: rows of a batch see each other"
        return
    # Both streams enter a worker's mixer as one sequence, so the first output of the usual length is that of its gate.
    place = ", mixer.output_gate (" if distinct_recipe in {"worker", "worker-paper"} else ", mixer ("
    assert report.mark() == "fails audit: sees the future"
    assert finding.where.startswith("layer 0 of") and place in finding.where and ", position 0" in finding.where


def later(x):
    """Each token's follower (B, T, dim), zeros after the last."""
    return F.pad(x[:, 1:], (0, 0, 0, 1))


class OnlyInLastLayer(Attention):
    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.last = layer_context.index == layer_context.depth - 1

    def forward(self, x, ctx):
        return super().forward(x, ctx) + (later(x) if self.last else 0)


def test_the_first_leaking_layer_is_named(small, mixer):
    finding = small(only=ONLY, depth=4, mixer=mixer(OnlyInLastLayer))["causality"]
    assert finding.status == "fail" and finding.mark == "sees the future"
    assert finding.where == "layer 3 of 0..3, mixer (OnlyInLastLayer), position 0, which sees token 1"
    assert finding.measured > 1e-3 and finding.tolerance == 1e-9


class BehindAClosedGate(Attention):
    """Leaks through a gate that is 0 at initialization: only training opens it."""

    def __init__(self, config, layer_context):
        super().__init__(config, layer_context)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x, ctx):
        return super().forward(x, ctx) + self.gate * later(x)


class Cancelling(Attention):
    """The value of the leak is zero; its gradient is not, so training can use it."""

    def forward(self, x, ctx):
        return super().forward(x, ctx) + later(x) - later(x).detach()


class LoudestTokens(Attention):
    """Keeps the attention of the louder half of the sequence: a choice, through which no gradient flows."""

    def forward(self, x, ctx):
        loudness = x.norm(dim=-1)
        chosen = loudness >= loudness.median(dim=1, keepdim=True).values
        return super().forward(x, ctx) * chosen[..., None]


class PastTokenHundred(Attention):
    """Reads one token ahead, from position 99 to position 100 only."""

    def forward(self, x, ctx):
        leak = torch.zeros_like(x)
        if x.shape[1] > 100:
            leak[:, 99] = x[:, 100]
        return super().forward(x, ctx) + leak


class MaximumOverTime(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx) / x.abs().amax(dim=(1, 2), keepdim=True)


class OnlyInTraining(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx) + (later(x) if self.training else 0)


@pytest.mark.parametrize(
    "leaky", [BehindAClosedGate, Cancelling, LoudestTokens, PastTokenHundred, MaximumOverTime, OnlyInTraining]
)
def test_a_leak_from_later_tokens_is_caught(small, mixer, leaky):
    finding = small(only=ONLY, mixer=mixer(leaky))["causality"]
    assert finding.status == "fail"
    assert finding.mark == ("sees the future in training" if leaky is OnlyInTraining else "sees the future")


class CentredOverTheBatch(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ctx) - x.mean(dim=0)


def test_rows_that_see_each_other_are_caught(small, mixer):
    assert small(only=ONLY, mixer=mixer(CentredOverTheBatch)).mark() == "fails audit: rows of a batch see each other"


class BlindToDocuments(Attention):
    def forward(self, x, ctx):
        return super().forward(x, ForwardContext(ctx.positions, 0, cache=ctx.cache, kv_len=ctx.kv_len))


def test_packed_documents_that_see_each_other_are_caught(small, mixer):
    report = small(only=ONLY, mixer=mixer(BlindToDocuments))
    assert report.mark() == "fails audit: packed documents see each other"


class BatchNorm(nn.Module):
    """In evaluation it uses what it has seen, so only training mixes rows and times."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.norm(x.flatten(0, -2)).view_as(x)


def test_batch_normalization_is_caught_in_training(small, norm):
    assert small(only=ONLY, norm=norm(BatchNorm)).mark() == "fails audit: sees the future in training"


class InSinglePrecision(Swiglu):
    def forward(self, x, ctx):
        weights = [self.gate_up.weight.float(), self.down.weight.float()]
        gate, up = F.linear(x.float(), weights[0]).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, weights[1]).to(x.dtype)


def test_rounding_is_not_taken_for_a_leak(small, feedforward):
    part = feedforward(lambda config, layer_context: InSinglePrecision(SwigluConfig(hidden=64), layer_context))
    finding = small(only=ONLY, feedforward=part)["causality"]
    assert (finding.status, finding.tolerance) == ("pass", 1e-9)


def test_a_context_of_eight_tokens_is_audited():
    report = audit("nope", quick=True, overrides={**TINY, "context": 8}, only=["causality"])
    assert report.passed, report.failed


class Contrast(Objective):
    """The states of one row should differ, those of its other documents among them."""

    def comparable(self, batch):
        return torch.ones(*batch.tokens.shape, batch.tokens.shape[1], dtype=torch.bool)

    def forward(self, model, batch, label_smoothing=0.0):
        terms = AuxLosses.before(batch)
        hidden, scored = model.hidden(batch, aux_losses=terms), batch.targets != -100
        count = scored.sum().clamp(min=1)
        logits = model.head(hidden).flatten(0, 1)
        nats = F.cross_entropy(logits, batch.targets.flatten(), reduction="sum", label_smoothing=label_smoothing)
        unit = F.normalize(hidden, dim=-1)
        earlier = self.comparable(batch).tril(-1)
        alike = ((unit @ unit.mT).relu() * earlier).sum(-1) / earlier.sum(-1).clamp(min=1)
        contrast = (alike * scored).sum() / count
        return with_aux_losses(Loss(nats / count + contrast, {"next_token": nats / count, "contrast": contrast}), terms)


class ContrastWithinDocuments(Contrast):
    def comparable(self, batch):
        if batch.document_ids is None:
            return super().comparable(batch)
        return batch.document_ids[:, None] == batch.document_ids[:, :, None]


def test_a_term_of_the_loss_that_compares_documents_is_caught(small, objective):
    finding = small(only=ONLY, objective=objective(Contrast))["causality"]
    assert finding.mark == "packed documents see each other in training" and "in its term 'contrast'" in finding.detail
    assert small(only=ONLY, objective=objective(ContrastWithinDocuments)).passed
