"""Specimens as small models in double precision, so that only a fault can make a difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from litmus.model import Decoder, build

SPECIMENS = Path(__file__).parents[2] / "specimens"
VOCABULARY, CONTEXT = 61, 96


@pytest.fixture
def specimen() -> Callable[..., Decoder]:
    def small(name: str, **overrides: Any) -> Decoder:
        sizes = {"vocab_size": VOCABULARY, "context": CONTEXT, "dim": 32, "heads": 2}
        return build(SPECIMENS / f"{name}.py", **{**sizes, **overrides}).double().eval()

    return small


@pytest.fixture
def tokens() -> Tensor:
    """Two rows of 80 tokens."""
    return torch.randint(VOCABULARY, (2, 80), generator=torch.Generator().manual_seed(0))
