"""Recipe and kind `latent` of version 0.1.0 are `compressed` now; the old name is read, the new one written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch.testing import assert_close

from litmus.catalog import recipes
from litmus.model import build, load, resolve, save
from litmus.model.recipe import current_keys
from litmus.nn import CompressedConfig, MixerConfig

TINY = {"dim": 16, "depth": 2, "heads": 2, "vocab_size": 23, "context": 64}


def in_old_words(plain: dict[str, Any]) -> dict[str, Any]:
    """A recipe's mapping as version 0.1.0 wrote it."""
    return yaml.safe_load(yaml.safe_dump(plain).replace("kind: compressed", "kind: latent"))


def test_the_old_name_of_the_recipe_gives_the_same_model_under_that_name() -> None:
    old, new = resolve("latent"), resolve("compressed")
    assert (old.name, new.name) == ("latent", "compressed")  # so that runs/latent is resumed
    assert old.model_copy(update={"name": new.name}) == new
    assert "latent" not in recipes()


def test_a_diff_may_name_the_kind_by_either_name() -> None:
    expected = CompressedConfig(block=16, latents=1, window=32)
    for kind in ("latent", "compressed"):
        for base in ("latent", "compressed"):
            assert resolve({"base": base, "mixer": {"kind": kind, "window": 32}}).mixer == expected
    assert resolve("standard", overrides={"mixer.kind": "latent", "mixer.block": 8}).mixer == CompressedConfig(block=8)


@pytest.mark.parametrize("name", ["compressed", "roleplay"])
def test_a_model_saved_under_the_old_kind_loads_with_equal_logits(name: str, tmp_path: Path) -> None:
    model = build(name, overrides={**TINY, "feedforward.hidden": 32, "dropout": 0.0}).eval()
    save(model, tmp_path / "model")
    file = tmp_path / "model" / "recipe.yaml"
    assert "kind: compressed" in file.read_text() and "kind: latent" not in file.read_text()
    old = in_old_words(yaml.safe_load(file.read_text()))
    assert "kind: latent" in yaml.safe_dump(old)
    assert current_keys(old) == model.recipe.to_dict()
    file.write_text(yaml.safe_dump(old))
    found, tokens = load(tmp_path / "model").eval(), torch.arange(40).remainder(23)[None]
    assert found.recipe == model.recipe
    assert_close(found(tokens), model(tokens), rtol=0, atol=0)


def test_a_plug_in_may_declare_a_kind_of_the_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixerConfig, "kinds", dict(MixerConfig.kinds))

    class OwnConfig(MixerConfig):
        kind: Literal["latent"] = "latent"

    assert type(resolve({"base": "compressed", "mixer": {"kind": "latent"}}).mixer) is OwnConfig
