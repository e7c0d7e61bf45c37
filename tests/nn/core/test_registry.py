"""Declaring a class registers its kind; a raw mapping finds its class by kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import pytest

from litmus.errors import BadInput
from litmus.nn import FeedforwardConfig, LayerContext, MixerConfig, NormConfig, PositionsConfig
from litmus.nn.attention.multihead import AttentionConfig
from litmus.nn.core.registry import parse_config


def test_each_family_knows_its_own_kinds() -> None:
    assert set(PositionsConfig.kinds) == {"none", "learned", "sinusoidal", "rope"}
    assert {"gelu", "swiglu", "relu2"} <= set(FeedforwardConfig.kinds)
    assert set(NormConfig.kinds) == {"rmsnorm", "layernorm"}
    assert "attention" in MixerConfig.kinds


def test_declaring_a_class_is_all_it_takes() -> None:
    class Mine(MixerConfig):
        kind: Literal["mine_for_test"] = "mine_for_test"
        size_keys: ClassVar[tuple[str, ...]] = ("width",)
        width: int = 3

    found = parse_config(MixerConfig, {"kind": "mine_for_test", "width": 4})
    assert found == Mine(width=4)
    assert parse_config(MixerConfig, found) is found


def test_a_base_that_several_kinds_share_is_not_a_kind() -> None:
    class Shared(FeedforwardConfig):
        hidden: int = 3

    assert all(kind is not Shared for kind in FeedforwardConfig.kinds.values())


def test_a_kind_of_another_file_cannot_be_taken_over() -> None:
    with pytest.raises(
        BadInput, match=r"mixer kind 'attention' is declared twice, in .*multihead.py and .*test_registry.py"
    ):

        class Attention(MixerConfig):
            kind: Literal["attention"] = "attention"

    assert MixerConfig.kinds["attention"] is AttentionConfig


def test_a_kind_declared_without_build_says_so(layer_context: Callable[..., LayerContext]) -> None:
    class Unbuilt(MixerConfig):
        kind: Literal["unbuilt_for_test"] = "unbuilt_for_test"

    with pytest.raises(BadInput, match=r"mixer kind 'unbuilt_for_test' declares no build\(layer\)"):
        Unbuilt().build(layer_context())


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"kind": "atention"}, "unknown mixer kind 'atention'; did you mean 'attention'?"),
        ({"kind": None}, "unknown mixer kind None; valid: .*attention"),
        ({}, "unknown mixer kind None; valid: .*attention"),
        ({"kind": ["attention"]}, "unknown mixer kind"),
        ("attention", "mixer must be a mapping with a kind, found 'attention'"),
        ({"kind": "attention", "head": 3}, "mixer 'attention': unknown key 'head'; did you mean 'heads'"),
        ({"kind": "attention", "heads": 0}, "mixer 'attention': heads = 0 is not valid: input should be greater"),
        ({"kind": "attention", "bias": "perhaps"}, "mixer 'attention': bias = 'perhaps' is not valid"),
        ({"kind": "attention", "ssmax": {"lerned": 1}}, "unknown key 'ssmax.lerned'; did you mean 'learned'?"),
    ],
)
def test_what_cannot_be_a_mixer_is_refused_in_one_sentence(raw: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse_config(MixerConfig, raw)
