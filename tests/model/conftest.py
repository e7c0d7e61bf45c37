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

from litmus.nn import Mixer, MixerConfig, attend, residual_linear, update_kv


class MeanConfig(MixerConfig):
    kind: Literal["mean_so_far"] = "mean_so_far"
    scale: float = 1.0

    def build(self, layer):
        return Mean(self, layer)


class Mean(Mixer):
    def __init__(self, config, layer):
        super().__init__()
        self.scale = config.scale * FACTOR
        self.dim = layer.dim
        self.out = residual_linear(layer.dim, layer)

    def forward(self, x, ctx):
        values = x if ctx.cache is None else update_kv(ctx.cache["x"], x, ctx)
        alike = torch.zeros_like(x)[:, :, None], torch.zeros_like(values)[:, :, None]
        mean = attend(*alike, values[:, :, None], ctx.attention_mask())
        return self.out(self.scale * mean[:, :, 0])

    def new_cache(self, batch, capacity, *, device, dtype):
        return {"x": torch.zeros(batch, capacity, self.dim, device=device, dtype=dtype)}

    def kv_elements(self, capacity):
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
