"""Can it learn: models that cannot, though nothing else is wrong with them."""

import torch

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.checks.overfitting import MAX_NATS, batch
from litmus.model import resolve
from litmus.nn import Attention, Loss, Objective, share_of_step

ONLY = ("overfits one batch",)


class HeldBack(Objective):
    """A penalty on all weights that outweighs what there is to learn."""

    def forward(self, model, batch, label_smoothing=0.0):
        loss = super().forward(model, batch, label_smoothing)
        penalty = 30.0 * sum(parameter.square().sum() for parameter in model.parameters())
        return Loss(loss.total + share_of_step("penalty", penalty, torch.ones(())), loss.parts)


def test_a_model_that_cannot_learn_fails_this_check_alone(small, objective):
    report = small(objective=objective(HeldBack))
    assert [finding.name for finding in report.failed] == ["overfits one batch"]
    assert report.mark() == "fails audit: cannot learn a single batch"
    assert report["overfits one batch"].measured > MAX_NATS


class NoContext(Attention):
    def forward(self, x, ctx):
        return torch.zeros_like(x)


def test_a_model_without_context_cannot_learn_the_batch(small, mixer):
    assert not small(only=ONLY, mixer=mixer(NoContext)).passed


def test_no_token_of_the_batch_tells_the_next_one_by_itself():
    target = DecoderTarget(resolve("standard", overrides={"vocab_size": 61}), quick=True)
    tokens, targets = batch(target)
    followers: dict[int, set[int]] = {}
    for token, target in zip(tokens[:, 1:].flatten().tolist(), targets[:, 1:].flatten().tolist(), strict=True):
        followers.setdefault(token, set()).add(target)
    assert all(len(found) > 1 for found in followers.values())
    assert len(set(tokens[:, 0].tolist())) == len(tokens)  # but the first token of a row tells which row it is


def test_the_trained_model_does_not_depend_on_the_check_that_needs_it_first(small):
    ways = small(only=["cache parity"])["cache parity"].detail
    together = small(only=["causality", "cache parity"])["cache parity"].detail
    assert ways == together
