"""What a recipe may say, how diffs merge into it, and that its YAML is the whole of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from litmus.errors import BadInput
from litmus.model import SIZES, Recipe, recipes, resolve
from litmus.model.recipe import merge
from litmus.nn import AttentionConfig, SSMaxConfig


@pytest.mark.parametrize(
    ("base", "diff", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"p": {"kind": "x", "w": 1}}, {"p": {"w": 2}}, {"p": {"kind": "x", "w": 2}}),
        ({"p": {"kind": "x", "w": 1}}, {"p": {"kind": "x", "v": 2}}, {"p": {"kind": "x", "w": 1, "v": 2}}),
        ({"p": {"kind": "x", "w": 1}}, {"p": {"kind": "y"}}, {"p": {"kind": "y"}}),
        ({"p": {"q": {"r": 1, "s": 2}}}, {"p": {"q": {"s": 3}}}, {"p": {"q": {"r": 1, "s": 3}}}),
        ({"p": {"w": 1}}, {"p": None}, {"p": None}),
        ({"p": None}, {"p": {"w": 1}}, {"p": {"w": 1}}),
        ({"l": [1, 2]}, {"l": [3]}, {"l": [3]}),
    ],
)
def test_mappings_merge_key_by_key_and_a_new_kind_replaces_its_part(
    base: dict[str, Any], diff: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = (str(base), str(diff))
    assert merge(base, diff) == expected
    assert (str(base), str(diff)) == before


@pytest.mark.parametrize("size", [None, *SIZES])
@pytest.mark.parametrize("name", recipes())
def test_the_yaml_of_a_recipe_resolves_to_itself(name: str, size: str | None) -> None:
    recipe = resolve(name, size=size)
    assert resolve(yaml.safe_load(recipe.to_yaml())) == recipe
    assert resolve(recipe) == recipe


def test_the_yaml_keeps_layer_groups_that_switch_something_off() -> None:
    layers = [{"repeat": 1, "mixer": {"ssmax": None}}, {"repeat": "rest", "feedforward": {"kind": "relu2"}}]
    recipe = resolve("ssmax", overrides={"layers": layers})
    again = resolve(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    mixers = [parts["mixer"] for parts in again.layer_parts()]
    assert mixers == [AttentionConfig()] + [AttentionConfig(ssmax=SSMaxConfig())] * 4


def test_the_yaml_states_every_key() -> None:
    stated = yaml.safe_load(resolve("standard").to_yaml())
    assert set(Recipe.model_fields) - set(stated) == {"plugin"}
    assert stated["head"] == {"kind": "linear", "tied": True, "bias": False}
    assert stated["positions"] == {"kind": "rope", "theta": 10_000.0}


def test_a_group_is_a_diff_against_the_parts_of_the_recipe() -> None:
    recipe = resolve(
        "standard",
        overrides={
            "mixer.kv_heads": 2,
            "layers": [
                {"repeat": 2},
                {"repeat": "rest", "mixer": {"qk_norm": True}, "feedforward": {"kind": "gelu"}},
                {"repeat": 1, "mixer": {"kv_heads": 1}},
            ],
        },
    )
    found = [(p["mixer"].kv_heads, p["mixer"].qk_norm, p["feedforward"].kind) for p in recipe.layer_parts()]
    assert found == [(2, False, "swiglu")] * 2 + [(2, True, "gelu")] * 2 + [(1, False, "swiglu")]


def test_a_group_with_another_kind_starts_afresh() -> None:
    groups = [{"repeat": 1, "feedforward": {"kind": "gelu"}}, {"feedforward": {"bias": True}}]
    recipe = resolve("standard", overrides={"feedforward.hidden": 99, "layers": groups})
    found = [(parts["feedforward"].kind, parts["feedforward"].hidden) for parts in recipe.layer_parts()]
    assert found == [("gelu", None)] + [("swiglu", 99)] * 4


@pytest.mark.parametrize(("depth", "gelus"), [(1, 0), (2, 1), (3, 1), (12, 6)])
def test_half_the_layers_may_differ_at_any_depth(depth: int, gelus: int) -> None:
    groups = [{"repeat": "half", "feedforward": {"kind": "gelu"}}, {"repeat": "rest"}]
    recipe = resolve("standard", overrides={"depth": depth, "layers": groups})
    kinds = [parts["feedforward"].kind for parts in recipe.layer_parts()]
    assert kinds == ["gelu"] * gelus + ["swiglu"] * (depth - gelus)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([{"repeat": 3}], "the layer groups make 3 layers and depth is 5"),
        ([{"repeat": 6}, {"repeat": "rest"}], "the layer groups make 6 layers and depth is 5"),
        ([{}, {}], "2 layer groups repeat 'rest'; one may"),
        ([], "the layer groups make 0 layers"),
        ([{"repeat": 0}, {}], "a layer group repeats 0 times"),
        ([{"repeat": -2}, {}], "a layer group repeats -2 times"),
        ([{"repeat": "all"}], "a layer group repeats 'all' times"),
        ([{"mixr": {}}], r"unknown key 'layers.0.mixr'; did you mean 'mixer'\?"),
        ([{"mixer": {"kv_head": 1}}], "unknown key 'kv_head'; did you mean 'kv_heads'"),
        ([{"mixer": {"kind": "atention"}}], "unknown mixer kind 'atention'"),
        ([{"mixer": 3}], "layers.0.mixer = 3 is not valid"),
        ("rest", "layers = 'rest' is not valid"),
    ],
)
@pytest.mark.parametrize("size", [None, "tiny"])
def test_layer_groups_that_do_not_fit_are_refused(layers: Any, sentence: str, size: str | None) -> None:
    with pytest.raises(BadInput, match=sentence):
        resolve({"base": "standard", "layers": layers}, size=size)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        resolve("standard").dim = 3
