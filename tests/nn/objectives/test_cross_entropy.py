"""The chunked cross-entropy against the plain one: value, gradient, and what it holds in memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from litmus.nn import reference_path
from litmus.nn.objectives import cross_entropy as loss
from litmus.nn.objectives.cross_entropy import cross_entropy, head_cross_entropy, token_cross_entropy

DIM = 5


def head_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear head with these weights."""
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    head.weight = nn.Parameter(weight.detach())
    if bias is not None:
        head.bias = nn.Parameter(bias.detach())
    return head


def a_problem(rows: int, vocabulary: int, bias: bool, ignored: float = 0.0) -> tuple[Tensor, Tensor, Any, Tensor]:
    hidden = torch.randn(rows, DIM, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, DIM, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(vocabulary, dtype=torch.float64, requires_grad=True) if bias else None
    targets = torch.randint(vocabulary, (rows,))
    targets[torch.rand(rows) < ignored] = -100
    return hidden, weight, shift, targets


def by_definition(hidden: Tensor, weight: Tensor, bias: Any, targets: Tensor, smoothing: float) -> Tensor:
    """The mean over scored rows of -sum over v of q(v) log p(v), where q mixes the target with all words alike."""
    total = torch.zeros((), dtype=hidden.dtype)
    scored = [row for row in range(len(targets)) if targets[row] != -100]
    for row in scored:
        logits = weight @ hidden[row] + (0 if bias is None else bias)
        log_p = logits - logits.exp().sum().log()
        wanted = torch.full_like(logits, smoothing / len(weight))
        wanted[targets[row]] += 1 - smoothing
        total = total - (wanted * log_p).sum()
    return total / max(1, len(scored))


@pytest.mark.parametrize("fast", [True, False])
@given(
    rows=st.integers(1, 70),
    vocabulary=st.integers(2, 9),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    chunk=st.integers(1, 700),
)
def test_value_and_gradients_equal_the_definition_whatever_the_chunks(
    fast: bool, rows: int, vocabulary: int, bias: bool, ignored: float, smoothing: float, chunk: int
) -> None:
    hidden, weight, shift, targets = a_problem(rows, vocabulary, bias, ignored)
    inputs = [tensor for tensor in (hidden, weight, shift) if tensor is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "MAX_CHUNK_LOGITS", chunk)
        patch.setattr(loss, "MIN_CHUNK_ROWS", 16)
        found = cross_entropy(hidden, weight, shift, targets, label_smoothing=smoothing)
    expected = by_definition(hidden, weight, shift, targets, smoothing)
    assert_close(found, expected)
    if expected.requires_grad:
        for one, other in zip(
            torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
        ):
            assert_close(one, other)


@pytest.mark.parametrize("fast", [True, False])
def test_nothing_to_score_is_a_loss_of_0_with_gradient_0(fast: bool) -> None:
    hidden, weight, shift, targets = a_problem(20, 7, bias=True, ignored=1.0)
    found = cross_entropy(hidden, weight, shift, targets, label_smoothing=0.1)
    assert found == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(found, (hidden, weight, shift)))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_agrees_with_finite_differences(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 1)
    monkeypatch.setattr(loss, "MIN_CHUNK_ROWS", 16)
    hidden, weight, shift, targets = a_problem(20, 4, bias=True, ignored=0.2)
    assert torch.autograd.gradcheck(
        lambda *inputs: cross_entropy(*inputs, targets, label_smoothing=smoothing), (hidden, weight, shift)
    )


def test_a_weight_shared_with_the_embedding_gets_both_gradients() -> None:
    _, weight, _, targets = a_problem(12, 6, bias=False)
    mix = torch.randn(DIM, DIM, dtype=torch.float64)
    tokens = torch.randint(6, (12,))
    gradients = []
    for reference in (True, False):
        with reference_path(reference):
            nats = cross_entropy(F.embedding(tokens, weight) @ mix, weight, None, targets)
            gradients += torch.autograd.grad(nats, weight)
    assert_close(*gradients)


def test_only_the_gradients_asked_for_are_computed() -> None:
    hidden, weight, shift, targets = a_problem(12, 6, bias=True)
    with reference_path():
        expected = cross_entropy(hidden, weight, shift, targets)
    for frozen in (hidden, weight, shift):
        frozen.requires_grad_(False)
        found = cross_entropy(hidden, weight, shift, targets)
        wanted = [tensor for tensor in (hidden, weight, shift) if tensor.requires_grad]
        assert_close(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted, retain_graph=True))
        frozen.requires_grad_(True)
    with torch.no_grad():
        assert_close(cross_entropy(hidden, weight, shift, targets), expected.detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bf16_is_close_to_the_exact_loss(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 1)
    monkeypatch.setattr(loss, "MIN_CHUNK_ROWS", 16)
    hidden, weight, shift, targets = a_problem(200, 30, bias=True, ignored=0.2)
    with reference_path():
        exact = cross_entropy(hidden, weight, shift, targets, label_smoothing=smoothing)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight, shift)]
    found = cross_entropy(*low, targets, label_smoothing=smoothing)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.01)
    pairs = zip(torch.autograd.grad(found, low), torch.autograd.grad(exact, (hidden, weight, shift)), strict=True)
    for one, other in pairs:
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).norm() < 0.02 * other.norm()


def test_under_autocast_the_weight_gradient_is_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 1)
    monkeypatch.setattr(loss, "MIN_CHUNK_ROWS", 16)
    weight = torch.randn(9, DIM, requires_grad=True)
    hidden = 1 + 0.1 * torch.randn(8000, DIM)  # every chunk pulls the same way: a bf16 sum would stop growing
    targets = torch.zeros(8000, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        found = cross_entropy(hidden, weight, None, targets)
    (gradient,) = torch.autograd.grad(found, weight)
    assert gradient.dtype == torch.float32
    with reference_path():
        exact = cross_entropy(hidden, weight, None, targets)
    assert found.item() == pytest.approx(exact.item(), rel=0.01)
    expected = torch.autograd.grad(exact, weight)[0]
    assert (gradient - expected).norm() < 0.01 * expected.norm()


def test_huge_logits_do_not_overflow() -> None:
    hidden, weight, shift, targets = a_problem(12, 6, bias=True)
    found = cross_entropy(hidden * 1e4, weight, shift, targets)
    with reference_path():
        assert_close(found, cross_entropy(hidden * 1e4, weight, shift, targets))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found, (hidden, weight, shift)))


def test_logits_that_are_not_finite_make_a_loss_that_is_not() -> None:
    hidden, weight, shift, targets = a_problem(12, 6, bias=True)
    assert cross_entropy(hidden * torch.nan, weight, shift, targets).isnan()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("stray", [-1, 6])
def test_a_target_outside_the_vocabulary_is_an_error(fast: bool, stray: int) -> None:
    hidden, weight, shift, targets = a_problem(12, 6, bias=True)
    targets[5] = stray
    with pytest.raises((IndexError, RuntimeError)):
        cross_entropy(hidden, weight, shift, targets)


@given(rows=st.integers(1, 70), vocabulary=st.integers(2, 9), bias=st.booleans(), chunk=st.integers(1, 700))
def test_token_losses_equal_the_definition_row_by_row(rows: int, vocabulary: int, bias: bool, chunk: int) -> None:
    hidden, weight, shift, targets = a_problem(rows, vocabulary, bias, ignored=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "MAX_CHUNK_LOGITS", chunk)
        patch.setattr(loss, "MIN_CHUNK_ROWS", 16)
        nats = token_cross_entropy(head_of(weight, shift), hidden, targets)
    assert not nats.requires_grad
    for row in range(rows):
        assert_close(nats[row], by_definition(hidden[row, None], weight, shift, targets[row, None], 0.0).detach())


def test_token_losses_of_bf16_are_fp32() -> None:
    hidden, weight, _, targets = a_problem(12, 6, bias=False)
    nats = token_cross_entropy(head_of(weight.float()), hidden.bfloat16(), targets)
    assert nats.dtype == torch.float32
    assert_close(nats.double(), token_cross_entropy(head_of(weight), hidden, targets), rtol=0.05, atol=0.05)


def test_equal_logits_cost_the_log_of_the_vocabulary() -> None:
    nats = token_cross_entropy(head_of(torch.randn(50, DIM)), torch.zeros(3, DIM), torch.tensor([0, 49, -100]))
    assert_close(nats, torch.tensor([math.log(50), math.log(50), 0.0]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_any_head_gives_the_loss_and_gradients_of_its_logits(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MIN_CHUNK_ROWS", 16)
    hidden, weight, shift, targets = a_problem(70, 6, True, ignored=0.3)
    head = head_of(weight, shift)
    found = head_cross_entropy(head, hidden, targets, label_smoothing=smoothing)
    expected = cross_entropy(hidden, head.weight, head.bias, targets, label_smoothing=smoothing)
    assert_close(found, expected)
    inputs = [hidden, head.weight, head.bias]
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert_close(one, other)
