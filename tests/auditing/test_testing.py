"""`litmus.testing`: one assertion per claim, on modules that nobody wrote for Litmus."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.model import build
from litmus.testing import assert_cache_matches, assert_causal, assert_loss_is_mean, assert_padding_ignored
from tests.auditing.small_gpt import GPT


def test_a_sound_gpt_passes_and_is_left_as_it_was():
    model = GPT().train()
    before = copy.deepcopy(model.state_dict())
    assert_causal(model)
    assert_loss_is_mean(model)
    assert model.training and all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_leak_is_named_by_position_token_and_first_leaking_module():
    with pytest.raises(AssertionError) as error:
        assert_causal(GPT(peek=1))
    said = str(error.value)
    assert said.startswith("GPT sees the future: replacing the tokens from position 1 on changes the logits")
    assert "where: h.1.attn (Attention), position 0, which sees token 1" in said


class Returns(nn.Module):
    """A GPT that returns its logits in another form."""

    def __init__(self, form: str, peek: int = 0) -> None:
        super().__init__()
        self.gpt, self.form = GPT(peek=peek), form

    def forward(self, idx: Tensor) -> object:
        logits = self.gpt.lm_head(self.gpt.hidden(idx))
        return {"tensor": logits, "tuple": (logits, None), "mapping": {"logits": logits}}[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping"])
def test_logits_may_come_alone_in_a_tuple_or_in_a_mapping(form):
    assert_causal(Returns(form))
    with pytest.raises(AssertionError, match=r"gpt\.h\.1\.attn \(Attention\)"):
        assert_causal(Returns(form, peek=2))


def test_a_function_is_judged_by_its_logits_alone():
    sound, leaking = Returns("tensor"), Returns("tensor", peek=1)
    assert_causal(lambda idx: sound(idx), vocab_size=37)
    with pytest.raises(AssertionError, match=r"<lambda> sees the future: .*position 0, which sees token 1"):
        assert_causal(lambda idx: leaking(idx), vocab_size=37)
    with pytest.raises(BadInput, match="give vocab_size"):
        assert_causal(lambda idx: sound(idx))


class WithLoss(GPT):
    """A GPT with another reduction of its loss."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits, loss = super().forward(idx, targets)
        if targets is None:
            return logits, loss
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
        rows = each.view(targets.shape)
        scored = (targets != -1).sum(1).clamp(min=1)
        return logits, {
            "sum": each.sum(),
            "over all positions": each.mean(),
            "half": rows[:, ::2].mean(),
            "with a balance term": loss + 0.1 * self.wpe.weight.square().mean(),
            "of row means": (rows.sum(1) / scored).mean(),
        }[self.reduce]


@pytest.mark.parametrize(
    ("reduce", "said"),
    [
        ("sum", "the target at position 0 of row 0 .* counts 1 instead of 0.2"),
        ("over all positions", "8 scored targets of 2 x 9 tokens"),
        ("half", "counts 0.3333 instead of 0.2"),
    ],
)
def test_a_loss_that_is_no_mean_is_named(reduce, said):
    with pytest.raises(AssertionError, match=said):
        assert_loss_is_mean(WithLoss(reduce))


def test_terms_that_depend_on_no_target_do_not_count():
    assert_loss_is_mean(WithLoss("with a balance term"))
    assert_loss_is_mean(WithLoss("of row means"))  # rows have the same number of scored targets here


class Cached(nn.Module):
    """One layer of attention that takes and returns a cache of keys and values; it may forget the oldest."""

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Embedding(37, 16), nn.Linear(16, 48), nn.Linear(16, 37)
        self.keep = keep

    def forward(self, idx: Tensor, attention_mask: Tensor | None = None, past: object = None, use_cache: bool = False):
        q, k, v = self.qkv(self.embed(idx)).chunk(3, -1)
        if isinstance(past, tuple):
            k, v = torch.cat((past[0], k), 1), torch.cat((past[1], v), 1)
        ahead = torch.arange(k.shape[1]) - (k.shape[1] - q.shape[1])
        seen = ahead[None] <= torch.arange(q.shape[1])[:, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None].bool()
        scores = (q @ k.transpose(1, 2)).masked_fill(~seen, -torch.inf)
        logits = self.head(scores.softmax(-1) @ v)
        return (logits, (k[:, -self.keep :], v[:, -self.keep :])) if use_cache else logits


def test_a_cache_that_is_passed_from_call_to_call_is_compared_with_the_full_pass():
    assert_cache_matches(Cached(keep=1000))
    with pytest.raises(
        AssertionError, match=r"decodes differently than it was trained: .*where: first at position \d+"
    ):
        assert_cache_matches(Cached(keep=9))


class IgnoresItsMask(Cached):
    def forward(self, idx: Tensor, attention_mask: Tensor | None = None, past: object = None, use_cache: bool = False):
        return super().forward(idx, None, past, use_cache)


def test_padding_must_have_no_effect():
    assert_padding_ignored(Cached(keep=200))
    with pytest.raises(AssertionError, match="padding of 1 on the left changes the logits of the text"):
        assert_padding_ignored(IgnoresItsMask(keep=200))


def test_what_the_model_lacks_is_said_and_never_passes():
    for claim, lacking in (
        (assert_cache_matches, "the model takes no cache that it returns"),
        (assert_padding_ignored, "the model takes no attention_mask"),
    ):
        with pytest.raises(BadInput, match=f"GPT cannot be tested for .*: {lacking}"):
            claim(GPT())
    with pytest.raises(BadInput, match="the model takes no targets"):
        assert_loss_is_mean(Returns("tensor"))


def test_a_decoder_is_a_model_like_any_other():
    model = build("ssmax", dim=32, heads=2, depth=1, vocab_size=61, context=40)
    for claim in (assert_causal, assert_cache_matches, assert_padding_ignored, assert_loss_is_mean):
        claim(model)


def test_a_leak_of_training_alone_is_found_in_the_loss():
    class LeaksInTraining(GPT):
        def hidden(self, idx: Tensor) -> Tensor:
            x = super().hidden(idx)
            return x + 0.1 * x.mean(1, keepdim=True) if self.training else x

    with pytest.raises(AssertionError, match="sees the future in training"):
        assert_causal(LeaksInTraining())
