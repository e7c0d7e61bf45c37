"""Weights for decoding: copies in bf16 and in 8 bits, and what rounding them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import litmus
from litmus.errors import BadInput
from litmus.generation import Engine, Request, Sampling
from litmus.generation.weights import FEW, Int8Linear, prepared
from litmus.model import Decoder

SHAPE: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "context": 30}


def model(name: str = "standard") -> Decoder:
    return litmus.build(name, vocab_size=61, overrides=SHAPE).eval()


@given(st.integers(1, 40), st.integers(1, 24), st.integers(1, 3 * FEW), st.booleans())
@torch.no_grad()
def test_a_row_of_8_bit_weights_is_off_by_half_a_step_of_its_own_scale_at_most(
    inputs: int, outputs: int, tokens: int, bias: bool
) -> None:
    linear = nn.Linear(inputs, outputs, bias=bias)
    linear.weight *= torch.logspace(-3, 3, outputs)[:, None]
    rounded = Int8Linear(linear)
    x = torch.randn(tokens, 1, inputs)
    step = linear.weight.abs().amax(1) / 127
    off = (rounded(x) - linear(x)).abs()
    assert (off <= 0.5001 * step * x.abs().sum(-1, keepdim=True) + 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, FEW, FEW + 1])
def test_the_kernel_gives_what_the_reference_gives(tokens: int) -> None:
    linear = nn.Linear(64, 48, bias=True).bfloat16()
    x = torch.randn(1, tokens, 64).bfloat16()
    rounded = Int8Linear(linear)
    exact = (x.float() @ rounded.weight_int8.float().T) * rounded.scale.float() + linear.bias.float()
    torch.testing.assert_close(rounded(x).float(), exact, rtol=2e-2, atol=2e-2)


def test_a_matrix_of_zeros_stays_one() -> None:
    linear = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(linear.weight)
    assert (Int8Linear(linear)(torch.randn(2, 4)) == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["standard", "gpt2", "mla", "moe-v3", "deepseek"])
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"int8": True}, {"int8": True, "precision": "fp32"}])
def test_a_rounded_copy_predicts_almost_the_same_and_leaves_the_model_alone(name: str, options: Any) -> None:
    exact = model(name)
    before = {key: tensor.clone() for key, tensor in exact.state_dict().items()}
    copied = prepared(exact, **options)
    tokens = torch.randint(61, (2, 12))
    logits = exact(tokens)
    assert (copied(tokens) - logits).std() < 0.1 * logits.std()
    assert all(torch.equal(exact.state_dict()[key], tensor) for key, tensor in before.items())
    widest = torch.float32 if options.get("precision") == "fp32" else torch.bfloat16
    assert copied.new_cache(1, 4).layers[0].popitem()[1].dtype == widest


def test_nothing_is_copied_where_nothing_changes() -> None:
    exact = model().bfloat16().to("meta")
    assert prepared(exact) is exact
    assert prepared(exact, "bf16") is exact


def test_the_engine_decodes_with_rounded_weights(rough: Callable[..., Decoder]) -> None:
    exact = rough(model(), torch.float32)
    for options in ({"precision": "bf16"}, {"int8": True}):
        engine = Engine(exact, rows=2, **options)
        for prompt in ([1, 2, 3], [4]):
            engine.submit(Request(prompt, Sampling(temperature=0), 5))
        assert sum(event.token is not None for event in engine.run()) == 10
    assert exact.embedding.weight.dtype == torch.float32


def test_8_bits_without_a_kernel_are_refused() -> None:
    with pytest.raises(BadInput, match="int8 decoding has a kernel for CPUs only, not for 'meta'; decode in bf16"):
        prepared(model().to("meta"), int8=True)
