"""Costs against hand formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from litmus.model import Decoder, cache_bytes_per_token, resolve, training_flops_per_token

Small = Callable[..., Decoder]


def by_hand(model: Decoder, context: int) -> float:
    """6 per weight that multiplies a token; per layer, scores and reads of T keys with dim numbers, 3 times over."""
    recipe = model.recipe
    matmuls = sum(p.numel() for p in model.layers.parameters() if p.ndim == 2)
    head = recipe.vocab_size * recipe.dim
    return 6 * (matmuls + head) + 12 * recipe.depth * context * recipe.dim


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "gpt2", "nope", "ssmax", "super-small"])
@pytest.mark.parametrize("context", [None, 1, 10, 100])
def test_training_flops_equal_the_hand_formula(name: str, context: int | None, small: Small) -> None:
    if name == "gpt2" and context == 100:
        context = 20  # learned positions end at the recipe's context
    model = small(name)
    expected = by_hand(model, context or model.recipe.context)
    assert training_flops_per_token(model.recipe, context) == pytest.approx(expected)


@pytest.mark.slow
def test_flops_are_counted_without_allocating_the_model() -> None:
    recipe = resolve("super-large")
    matmuls = 837_099_297 - 50257 * 1280
    assert training_flops_per_token(recipe, 64) == pytest.approx(6 * matmuls + 12 * 36 * 64 * 1280, rel=2e-3)


def test_the_cache_of_attention_is_two_vectors_per_layer_and_token(small: Small) -> None:
    model = small("standard")
    assert cache_bytes_per_token(model) == 2 * 3 * 32 * 4
    assert cache_bytes_per_token(model.bfloat16()) == 2 * 3 * 32 * 2
    assert cache_bytes_per_token(small("standard", overrides={"mixer.kv_heads": 1}), capacity=7) == 2 * 3 * 8 * 4
