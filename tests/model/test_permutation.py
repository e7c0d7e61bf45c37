"""Without positions one causal layer cannot tell the order of what came before; two can (science.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from litmus.model import Decoder


@pytest.fixture
def change(small: Callable[..., Decoder], rough: Callable[..., Decoder]) -> Callable[..., float]:
    """The largest change of the last token's logits when the tokens before it are permuted."""

    def measure(recipe: str, **options: Any) -> float:
        model = rough(small(recipe, **options)).eval()
        tokens = torch.randint(61, (4, 24))
        order = torch.cat((torch.randperm(23), torch.tensor([23])))
        with torch.no_grad():
            return float((model(tokens[:, order])[:, -1] - model(tokens)[:, -1]).abs().max())

    return measure


@pytest.mark.parametrize("recipe", ["nope", "ssmax-nope", "super-small"])
def test_one_layer_without_positions_is_invariant_under_permutations_of_the_prefix(
    recipe: str, change: Callable[..., float]
) -> None:
    assert change(recipe, depth=1) < 1e-12


@pytest.mark.parametrize("recipe", ["nope", "ssmax-nope", "super-small"])
@pytest.mark.parametrize("depth", [2, 3])
def test_deeper_models_without_positions_know_the_order(recipe: str, depth: int, change: Callable[..., float]) -> None:
    assert change(recipe, depth=depth) > 1e-2


@pytest.mark.parametrize("recipe", ["standard", "learned", "sinusoidal", "ssmax"])
def test_with_positions_one_layer_knows_the_order(recipe: str, change: Callable[..., float]) -> None:
    assert change(recipe, depth=1) > 1e-3
