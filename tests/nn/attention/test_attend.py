"""attend: softmax(factor · q·k / sqrt(D)) v, against loops that say the same."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from litmus.nn import attend, attention_weights, reference_path


def by_definition(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, query_scale: Tensor | None) -> Tensor:
    """One query at a time; `visible` (B, T, S) bool, `factor` (B, T, H)."""
    batch, length, heads, width = q.shape
    shared = heads // k.shape[2]
    out = torch.zeros_like(q)
    for b in range(batch):
        for t in range(length):
            for h in range(heads):
                keys = [s for s in range(k.shape[1]) if visible[b, t, s]]
                scores = [float(q[b, t, h] @ k[b, s, h // shared]) / math.sqrt(width) for s in keys]
                if query_scale is not None:
                    scores = [float(query_scale[b, t, h]) * score for score in scores]
                total = sum(math.exp(score) for score in scores)
                for s, score in zip(keys, scores, strict=True):
                    out[b, t, h] += math.exp(score) / total * v[b, s, h // shared]
    return out


def random_qkv(batch: int, length: int, keys: int, heads: int, groups: int, width: int) -> tuple[Tensor, ...]:
    shapes = (batch, length, heads, width), (batch, keys, groups, width), (batch, keys, groups, width)
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("fast", [True, False])
@given(
    batch=st.integers(1, 2),
    length=st.integers(1, 5),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    width=st.integers(1, 4),
    scaled=st.booleans(),
)
def test_causal_attention_equals_its_definition(
    fast: bool, batch: int, length: int, groups: int, shared: int, width: int, scaled: bool
) -> None:
    q, k, v = random_qkv(batch, length, length, groups * shared, groups, width)
    query_scale = torch.rand(batch, length, groups * shared, dtype=torch.float64) * 3 if scaled else None
    visible = torch.ones(batch, length, length).tril().bool()
    assert_close(attend(q, k, v, "causal", query_scale), by_definition(q, k, v, visible, query_scale))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("factor_shape", [None, (1, 3, 1), (2, 3, 1), (1, 3, 4), (2, 3, 4)])
def test_a_mask_and_a_factor_hold_for_each_row_query_and_head(fast: bool, factor_shape: tuple[int, ...] | None) -> None:
    q, k, v = random_qkv(2, 3, 5, heads=4, groups=2, width=4)
    visible = torch.rand(2, 1, 3, 5) < 0.6
    visible[..., 0] = True
    query_scale = None if factor_shape is None else torch.rand(factor_shape, dtype=torch.float64) * 3
    expected = by_definition(q, k, v, visible[:, 0], None if query_scale is None else query_scale.expand(2, 3, 4))
    assert_close(attend(q, k, v, visible, query_scale), expected)


@pytest.mark.parametrize("fast", [True, False])
def test_all_means_that_one_query_reads_every_key(fast: bool) -> None:
    q, k, v = random_qkv(2, 1, 6, heads=4, groups=2, width=4)
    assert_close(attend(q, k, v, "all", None), by_definition(q, k, v, torch.ones(2, 1, 6).bool(), None))


def test_the_weights_are_distributions_over_the_visible_keys() -> None:
    q, k, _ = random_qkv(2, 5, 5, heads=4, groups=2, width=4)
    weights = attention_weights(q, k, "causal", None)
    assert weights.shape == (2, 4, 5, 5)
    assert_close(weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))
    assert (weights.triu(1) == 0).all()


def test_the_weights_of_bf16_scores_are_exact_to_fp32() -> None:
    q, k, _ = (tensor.bfloat16() for tensor in random_qkv(1, 6, 6, heads=2, groups=2, width=8))
    weights = attention_weights(q, k, "causal", None)
    assert weights.dtype == torch.float32
    assert_close(weights.double(), attention_weights(q.double(), k.double(), "causal", None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_attention_is_close_to_the_exact_one(fast: bool) -> None:
    q, k, v = random_qkv(1, 6, 6, heads=2, groups=2, width=8)
    query_scale = torch.rand(1, 6, 2) * 3
    found = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), "causal", query_scale)
    assert found.dtype == torch.bfloat16
    with reference_path():
        assert_close(found.double(), attend(q, k, v, "causal", query_scale), rtol=0.05, atol=0.05)


def test_the_factor_meets_the_query_in_fp32_before_the_cast() -> None:
    q, k, v = (tensor.bfloat16() for tensor in random_qkv(1, 40, 40, heads=2, groups=2, width=8))
    query_scale = torch.rand(1, 40, 2) * 3
    scaled = (q.float() * query_scale[..., None]).bfloat16()
    found = attend(q, k, v, "causal", query_scale)
    assert torch.equal(found, attend(scaled, k, v, "causal", None))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_training_in_bf16_is_close_to_the_exact_attention_and_as_causal(groups: int) -> None:
    exact = [tensor.requires_grad_() for tensor in random_qkv(2, 12, 12, heads=4, groups=groups, width=8)]
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    query_scale = torch.rand(2, 12, 4) * 3
    found = attend(*low, "causal", query_scale)
    with reference_path():
        expected = attend(*exact, "causal", query_scale)
    assert found.dtype == torch.bfloat16
    assert_close(found.double(), expected, rtol=0.05, atol=0.05)
    pull = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * pull).sum(), exact)
    for one, other in zip(torch.autograd.grad((found * pull).sum(), low), gradients, strict=True):
        assert (one.double() - other).norm() < 0.03 * other.norm()
    with torch.no_grad():
        for tensor in low[1:]:
            tensor[:, 7:] += 1
    assert torch.equal(attend(*low, "causal", query_scale)[:, :7], found[:, :7])


@pytest.mark.parametrize("rows", [1, 2])
def test_training_in_bf16_under_a_mask_is_close_to_the_exact_attention(rows: int) -> None:
    exact = [tensor.requires_grad_() for tensor in random_qkv(2, 7, 12, heads=4, groups=2, width=8)]
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    visible = (torch.rand(rows, 1, 7, 12) < 0.5) | (torch.arange(12) == 3)
    found = attend(*low, visible)
    with reference_path():
        expected = attend(*exact, visible)
    assert_close(found.double(), expected, rtol=0.05, atol=0.05)
    pull = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * pull).sum(), exact)
    for one, other in zip(torch.autograd.grad((found * pull).sum(), low), gradients, strict=True):
        assert (one.double() - other).norm() < 0.03 * other.norm()
