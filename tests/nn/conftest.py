"""Places to build parts at, and steps to run them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litmus.model import Recipe
from litmus.nn import ForwardContext, LayerContext
from litmus.nn.layers.positions import NoPositionsConfig


def layer_context_with(*, index: int = 0, **changes: Any) -> LayerContext:
    """A small layer without positions and dropout; `changes` are keys of a recipe."""
    plain = {"dim": 16, "heads": 4, "context": 32, "depth": 2, "positions": NoPositionsConfig()}
    recipe = Recipe(name="small", **{**plain, **changes})
    return recipe.layer_context(index, recipe.layer_parts()[index])


def context_at(positions: Any, **changes: Any) -> ForwardContext:
    """A context whose rows have their own `positions`, (T,) or (B, T)."""
    places = torch.as_tensor(positions)
    return ForwardContext(places[None] if places.ndim == 1 else places, None, **changes)


@pytest.fixture(scope="session")
def layer_context() -> Callable[..., LayerContext]:
    return layer_context_with


@pytest.fixture(scope="session")
def ctx() -> Callable[..., ForwardContext]:
    return context_at


@pytest.fixture(scope="session")
def whole_rows() -> Callable[[Tensor], ForwardContext]:
    """The context of full rows from position 0, as training makes it."""
    return lambda x: ForwardContext(torch.arange(x.shape[1]).expand(x.shape[:2]))
