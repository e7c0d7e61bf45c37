"""Places to build parts at, and steps to run them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from litmus.nn import Site, Step
from litmus.nn.norms import RMSNormConfig
from litmus.nn.positions import NoPositionsConfig


def site_with(**changes: Any) -> Site:
    """A small site without positions and dropout."""
    plain = {
        "dim": 16,
        "heads": 4,
        "context": 32,
        "depth": 2,
        "layer": 0,
        "dropout": 0.0,
        "positions": NoPositionsConfig(),
        "norm": RMSNormConfig(),
    }
    return Site(**{**plain, **changes})


def step_at(positions: Any, **changes: Any) -> Step:
    """A step whose rows have their own `positions`, (T,) or (B, T)."""
    places = torch.as_tensor(positions)
    return Step(places[None] if places.ndim == 1 else places, None, **changes)


@pytest.fixture(scope="session")
def site() -> Callable[..., Site]:
    return site_with


@pytest.fixture(scope="session")
def step() -> Callable[..., Step]:
    return step_at


@pytest.fixture(scope="session")
def whole_rows() -> Callable[[Tensor], Step]:
    """The step of full rows from position 0, as training makes it."""
    return lambda x: Step(torch.arange(x.shape[1]).expand(x.shape[:2]))
