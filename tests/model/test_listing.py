"""The table of recipes."""

from __future__ import annotations

from rich.console import Console

from litmus.model import recipes
from litmus.model.listing import table


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
