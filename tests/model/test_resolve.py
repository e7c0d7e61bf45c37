"""From a name, a file or a mapping to a whole recipe: bases, sizes, overrides, and every way to get them wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litmus.errors import BadInput
from litmus.model import SIZES, build, recipes, resolve


def test_the_built_in_recipes_are_listed_by_name() -> None:
    assert {"standard", "gpt2", "learned", "sinusoidal", "nope", "ssmax", "ssmax-nope"} <= set(recipes())
    assert {"super-small", "super-default", "super-large"} <= set(recipes())
    assert recipes() == sorted(recipes())
    assert all(resolve(name).name == name and resolve(name).about for name in recipes())


@pytest.mark.parametrize(
    ("name", "key"),
    [("nope", "positions"), ("learned", "positions"), ("sinusoidal", "positions"), ("ssmax", "mixer")],
)
def test_a_diff_changes_what_it_names_and_nothing_else(name: str, key: str) -> None:
    base, diff = resolve("standard").to_dict(), resolve(name).to_dict()
    assert {k for k in base if base[k] != diff[k]} == {"name", "about", key}


def test_a_file_is_a_diff_against_its_base_by_name_or_beside_it(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("base: standard\ndim: 256\n")
    (tmp_path / "wider.yaml").write_text("base: wide.yaml\nmixer: {kv_heads: 2}\nabout: grouped\n")
    recipe = resolve(tmp_path / "wider.yaml")
    assert (recipe.name, recipe.about, recipe.dim) == ("wider", "grouped", 256)
    assert recipe.mixer.kv_heads == 2
    assert resolve(str(tmp_path / "wider.yaml")) == recipe


def test_a_mapping_and_a_recipe_are_sources_too() -> None:
    recipe = resolve({"base": "ssmax", "name": "mine", "dim": 64})
    assert (recipe.name, recipe.dim, recipe.mixer.ssmax.init) == ("mine", 64, 0.168)
    assert resolve(recipe, overrides={"dim": 32}).dim == 32


def test_overrides_may_be_dotted_nested_or_keywords() -> None:
    nested = resolve("ssmax", overrides={"mixer": {"ssmax": {"bias": True}, "kv_heads": 2}})
    dotted = resolve("ssmax", overrides={"mixer.ssmax.bias": True, "mixer.kv_heads": 2})
    keywords = build("ssmax", mixer={"ssmax": {"bias": True}}, overrides={"mixer.kv_heads": 2}).recipe
    assert nested == dotted == keywords
    assert nested.mixer.ssmax.bias and nested.mixer.ssmax.init == 0.168


def test_an_override_of_the_kind_replaces_the_part() -> None:
    recipe = resolve("super-small", overrides={"positions.kind": "rope", "context": 2048, "mixer.ssmax": None})
    assert (recipe.positions.kind, recipe.context, recipe.mixer.ssmax) == ("rope", 2048, None)
    assert recipe.mixer.bias


@pytest.mark.parametrize(
    ("size", "least", "most"), [("tiny", 0.9e6, 1.1e6), ("mini", 4.5e6, 5.5e6), ("small", 27e6, 33e6)]
)
def test_each_size_has_about_the_parameters_it_promises(size: str, least: float, most: float) -> None:
    assert least <= build("standard", size=size).parameter_counts()["non_embedding"] <= most


def test_the_base_size_of_gpt2_is_gpt2_small() -> None:
    recipe = resolve("gpt2")
    assert resolve("gpt2", size="base") == recipe
    assert SIZES["base"] == {"dim": 768, "depth": 12, "heads": 12}


def test_a_size_resets_the_keys_that_belong_to_another_size_and_keeps_the_rest() -> None:
    recipe = resolve("super-large", size="tiny")
    assert (recipe.dim, recipe.depth, recipe.heads) == (128, 5, 4)
    assert recipe.feedforward.hidden is None and recipe.feedforward.bias
    assert recipe.mixer.ssmax is not None and recipe.context == 4096
    own = {"base": "standard", "mixer": {"heads": 2, "kv_heads": 1, "head_dim": 7, "qk_norm": True}}
    mixer = resolve(own, size="tiny").mixer
    assert (mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.qk_norm) == (None, None, None, True)


def test_a_size_resets_the_keys_of_layer_groups_too() -> None:
    groups = [{"repeat": 1, "feedforward": {"hidden": 7}, "mixer": {"kv_heads": 1, "bias": True}}, {}]
    first = resolve({"base": "standard", "layers": groups}, size="tiny").layers[0]
    assert (first.repeat, first.feedforward, first.mixer) == (1, {}, {"bias": True})


def test_overrides_come_after_the_size() -> None:
    recipe = resolve("standard", size="base", overrides={"dim": 96, "mixer.kv_heads": 3}, vocab_size=99)
    assert (recipe.dim, recipe.depth, recipe.mixer.kv_heads, recipe.vocab_size) == (96, 12, 3, 99)


def test_bases_that_run_in_a_circle_are_shown(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("base: two.yaml")
    (tmp_path / "two.yaml").write_text("base: one.yaml")
    with pytest.raises(BadInput, match=r"recipe bases run in a circle: two.yaml -> one.yaml -> two.yaml"):
        resolve(tmp_path / "one.yaml")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"dim: [", r"mine.yaml is not YAML: while parsing a flow node"),
        (b"dim: 8\x00", r"mine.yaml is not YAML"),
        (b"caf\xe9: 1", r"mine.yaml is not YAML"),
        (b"- base: standard", r"mine.yaml must hold a mapping of recipe keys, found \[{'base': 'standard'}\]"),
        (b"", r"mine.yaml must hold a mapping of recipe keys, found None"),
        (b"standard", r"mine.yaml must hold a mapping of recipe keys, found 'standard'"),
        (b"dim: 8", r"recipe 'mine': the key 'depth' is missing"),
        (b"base: standrd", r"unknown recipe 'standrd'; did you mean 'standard'\?"),
        (b"base: other.yaml", r"there is no recipe file 'other.yaml'"),
        (b"base: standard\n3: 4", r"mine.yaml: the key 3 \(line 1\) is not a text; quote it"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=sentence) as error:
        resolve(tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"contxt": 3}, r"recipe 'standard': unknown key 'contxt'; did you mean 'context'\?"),
        ({"mixer.kv_head": 3}, r"recipe 'standard': mixer 'attention': unknown key 'kv_head'; did you mean 'kv_heads'"),
        ({"mixer.ssmax.lerned": True}, r"unknown key 'ssmax.lerned'; did you mean 'learned'\?"),
        ({"head.tide": True}, r"head 'linear': unknown key 'tide'; did you mean 'tied'"),
        ({"mixer.kind": "atention"}, r"unknown mixer kind 'atention'; did you mean 'attention'"),
        ({"positions.kind": "rop"}, r"unknown positions kind 'rop'; did you mean 'rope'\?"),
        ({"positions.kind": ["rope"]}, r"unknown positions kind \['rope'\]"),
        ({"feedforward.kind": "swigl"}, r"unknown feedforward kind 'swigl'; did you mean 'swiglu'\?"),
        ({"norm.kind": "layer"}, r"unknown norm kind 'layer'; did you mean 'layernorm'"),
        ({"block.kind": "postnorm"}, r"unknown block kind 'postnorm'; did you mean 'prenorm'\?"),
        ({"objective.kind": "next"}, r"unknown objective kind 'next'; .*next_token"),
        ({"mixer": None}, r"mixer must be a mapping with a kind, found None"),
        ({"dim": 0}, r"dim = 0 is not valid: input should be greater than or equal to 1"),
        ({"dim": "wide"}, r"dim = 'wide' is not valid: input should be a valid integer"),
        ({"dim.x": 3}, r"dim = \{'x': 3\} is not valid"),
        ({"mixer.gate": "headwise"}, r"gate = 'headwise' must be a mapping with keys such as kind, score"),
        ({"dropout": 1}, r"dropout = 1 is not valid: input should be less than 1"),
        ({"vocab_size": 1}, r"vocab_size = 1 is not valid"),
        ({"context": 0}, r"context = 0 is not valid"),
    ],
)
def test_an_override_that_cannot_be_is_refused(overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as error:
        resolve("standard", overrides=overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "size", "sentence"),
    [
        ("standrd", None, r"unknown recipe 'standrd'; did you mean 'standard'\?"),
        ("zzz", None, r"unknown recipe 'zzz'; valid: compressed, deepseek, gated, gpt2"),
        ("zzz.yaml", None, r"there is no recipe file 'zzz.yaml'"),
        ("standard", "tinny", r"unknown size 'tinny'; did you mean 'tiny'"),
        ("standard", "zzz", r"unknown size 'zzz'; valid: base, mini, own, small, tiny"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(source: str, size: str | None, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        resolve(source, size=size)


def test_heads_that_do_not_divide_dim_are_refused() -> None:
    with pytest.raises(BadInput, match=r"heads = 3 does not divide dim = 128; valid: 1, 2, 4, 8, 16, 32, 64, 128"):
        build("standard", heads=3)
