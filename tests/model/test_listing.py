"""The table of recipes."""

from __future__ import annotations

import pytest
from rich.console import Console

from litmus.errors import BadInput
from litmus.model import recipes
from litmus.model.listing import resolved_recipe, table


def rendered(**options: object) -> str:
    console = Console(width=400)
    with console.capture() as capture:
        console.print(table(recipes(), **options))
    return capture.get()


def test_every_recipe_is_listed_with_its_counts() -> None:
    text = rendered()
    lines = {line.split()[0]: line for line in text.splitlines()[1:] if line.strip()}
    assert set(recipes()) <= set(lines)
    assert "768 x 6 x 8" in lines["super-small"] and "110,330,497" in lines["super-small"]
    assert "124,439,808" in lines["gpt2"]
    assert f"{2 * 2 * 12 * 768:,}" in lines["gpt2"]


def test_the_list_can_be_made_at_another_size() -> None:
    assert rendered(size="tiny", overrides={"depth": 2}).count("128 x 2 x 4") == len(recipes())


def test_experts_that_a_token_skips_and_modules_for_training_are_not_active() -> None:
    text = rendered(size="tiny", overrides={"vocab_size": 61}).splitlines()
    rows = {line.split()[0]: place for place, line in enumerate(text) if line.split() and line.split()[0] in recipes()}

    def counts(name: str) -> list[int]:
        begin = text[0].index("parameters") - 5
        return [int(text[rows[name] + line][begin : begin + 15].replace(",", "")) for line in range(3)]

    dense, routed, ahead = (counts(name) for name in ("standard", "moe", "mtp"))
    assert dense[0] == dense[2] == ahead[2] < ahead[0]
    assert routed[2] < routed[0]


def test_a_recipe_that_cannot_be_built_is_not_printed() -> None:
    with pytest.raises(BadInput, match="top_k = 9 is more than experts = 4"):
        resolved_recipe("moe", overrides={"feedforward.top_k": 9})
