"""Random streams of the parts of a model."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from litmus.model import build, resolve
from litmus.model.decoder import Decoder


def test_parts_that_two_recipes_share_start_equally() -> None:
    standard, gated, mla = (dict(build(name, size="tiny").named_parameters()) for name in ("standard", "gated", "mla"))
    assert all(torch.equal(standard[name], gated[name]) for name in standard)
    shared = [name for name in standard if "feedforward" in name or "embedding" in name]
    assert shared and all(torch.equal(standard[name], mla[name]) for name in shared)


def test_seeds_layers_and_models_in_turn_start_differently() -> None:
    first, other = (build("standard", size="tiny", seed=seed) for seed in (0, 1))
    assert not torch.equal(first.layers[0].mixer.out.weight, other.layers[0].mixer.out.weight)
    assert not torch.equal(first.layers[0].mixer.out.weight, first.layers[1].mixer.out.weight)
    torch.manual_seed(0)
    recipe = resolve("standard", size="tiny")
    assert not torch.equal(Decoder(recipe).embedding.weight, Decoder(recipe).embedding.weight)


def test_a_model_can_be_built_without_values() -> None:
    with FakeTensorMode():
        assert Decoder(resolve("standard", size="tiny")).embedding.weight.shape[1] == 128
