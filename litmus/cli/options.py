"""Options that several commands share, and how `--set key=value` is read."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from litmus.errors import BadInput

Size = Annotated[str | None, typer.Option(help="A row of the size table: tiny, mini, small or base.")]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the recipe, e.g. mixer.kv_heads=2; may be repeated."
    ),
]


def overrides(settings: list[str] | None) -> dict[str, Any]:
    """["mixer.kv_heads=2"] as {"mixer.kv_heads": 2}; values are read as YAML."""
    changes = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise BadInput(f"--set {setting!r} is not of the form key=value, e.g. mixer.kv_heads=2")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(
                f"--set {setting!r}: the value is not YAML; quote it or use a plain number or word"
            ) from None
    return changes
