"""Small models and plug-in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litmus.model import Decoder, build

PLUGIN = '''
"""A mixer of its own kind: the mean of all vectors so far, times a scale."""

from typing import Literal

import torch

from litmus.nn import Mixer, MixerConfig, attend, residual_linear, write


class MeanConfig(MixerConfig):
    kind: Literal["mean_so_far"] = "mean_so_far"
    scale: float = 1.0

    def build(self, site):
        return Mean(self, site)


class Mean(Mixer):
    def __init__(self, config, site):
        super().__init__()
        self.scale = config.scale * FACTOR
        self.dim = site.dim
        self.out = residual_linear(site.dim, site)

    def forward(self, x, step):
        values = x if step.cache is None else write(step.cache["x"], x, step)
        alike = torch.zeros_like(x)[:, :, None], torch.zeros_like(values)[:, :, None]
        mean = attend(*alike, values[:, :, None], step.visibility(), None, fast=step.fast)
        return self.out(self.scale * mean[:, :, 0])

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"x": torch.zeros(batch, capacity, self.dim, device=device, dtype=dtype)}

    def cached_numbers(self, capacity):
        return capacity * self.dim


recipe = {"base": "standard", "positions": {"kind": "none"}, "mixer": {"kind": "mean_so_far"}}
'''


def small_model(recipe: Any, **changes: Any) -> Decoder:
    """A model of three narrow layers and 61 words."""
    plain = {"size": "tiny", "vocab_size": 61, "dim": 32, "depth": 3, "heads": 4, "context": 24}
    return build(recipe, **{**plain, **changes})


@pytest.fixture(scope="session")
def small() -> Callable[..., Decoder]:
    return small_model


@pytest.fixture
def write_plugin(tmp_path: Path) -> Callable[..., Path]:
    """Write (or rewrite) mean.py, a working plug-in whose mixer multiplies by `factor`."""

    def write(factor: float = 1.0) -> Path:
        path = tmp_path / "mean.py"
        path.write_text(PLUGIN.replace("FACTOR", str(factor)), encoding="utf-8")
        return path

    return write
