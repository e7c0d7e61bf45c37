"""Sizes that no memory holds are refused with a figure before anything is built; ordinary ones never are."""

from __future__ import annotations

from typing import Any

import pytest

from litmus.errors import BadInput
from litmus.model import Decoder, build, recipes, resolve
from litmus.model.bounds import _parameters, check_trained


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 10**8},
        {"depth": 10**30},
        {"dim": 10**19, "heads": 1},
        {"dim": 10**7, "heads": 2},
        {"vocab_size": 10**15},
        {"feedforward.hidden": 10**19},
        {"feedforward.hidden": 10**13},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["standard", "worker"])
def test_what_no_memory_holds_is_refused_before_it_is_built(name: str, sizes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"too large|less than or equal to|beyond"):
        build(name, size="tiny", overrides=sizes)
    with pytest.raises(BadInput, match=r"too large|less than or equal to|beyond"):
        check_trained(resolve(name, size="tiny", overrides=sizes), 1)


def test_the_figure_is_said() -> None:
    with pytest.raises(BadInput, match=r"depth 100000, .* its weights would take about \d\d\.\d TB, and this machine"):
        build("standard", size="tiny", depth=10**5, dim=4096)


@pytest.mark.parametrize("name", ["standard", "deepseek", "mod", "learned", "moe-v3", "roleplay"])
def test_no_more_is_counted_than_a_model_has(name: str) -> None:
    recipe = resolve(name, size="tiny", vocab_size=61, overrides={"dim": 32, "depth": 3, "heads": 4})
    held = sum(t.numel() for module in (Decoder(recipe),) for t in (*module.parameters(), *module.buffers()))
    assert 0.5 * held < _parameters(recipe) <= held


def test_published_sizes_are_none_that_no_memory_holds() -> None:
    for name in recipes():
        check_trained(resolve(name), 256)


def test_looking_further_ahead_than_the_context_is_refused() -> None:
    with pytest.raises(BadInput, match="depth = 100000000 tokens beyond the next, but a context of 256"):
        build("mtp", size="tiny", overrides={"objective.depth": 10**8})
