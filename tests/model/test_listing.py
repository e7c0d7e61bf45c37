"""The table of recipes."""

from __future__ import annotations

import pytest
from rich.console import Console

from litmus.errors import BadInput
from litmus.model import recipes
from litmus.model.listing import table, whole


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
    lines = {line.split()[0]: line for line in rendered(size="tiny").splitlines()[1:] if line.strip()}
    dense, routed, ahead = (lines[name].split("  ") for name in ("standard", "moe", "mtp"))
    dense, routed, ahead = ([cell.strip() for cell in row if cell.strip()] for row in (dense, routed, ahead))
    assert dense[4] == dense[6] == ahead[6] != ahead[4]
    assert int(routed[6].replace(",", "")) < int(routed[4].replace(",", ""))


def test_a_recipe_that_cannot_be_built_is_not_printed() -> None:
    with pytest.raises(BadInput, match="top_k = 9 is more than experts = 4"):
        whole("moe", overrides={"feedforward.top_k": 9})
