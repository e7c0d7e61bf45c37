"""Reading a Hugging Face config.json: keys that must be there, values that Litmus knows, and plain RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litmus.errors import BadInput

Config = Mapping[str, Any]


def size(config: Config, key: str) -> int:
    """A whole number that the architecture cannot do without."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput(f"config.json: {key} = {value!r}; a whole number of at least 1 is valid")
    return value


def only(config: Config, key: str, *valid: Any) -> None:
    """Refuse any other value of a key than these; the first is what its absence means."""
    value = config.get(key, valid[0])
    if value not in valid:
        raise BadInput(
            f"config.json: {key} = {value!r} has no equivalent in Litmus; valid: {' or '.join(map(repr, valid))}"
        )


def rope(config: Config) -> dict[str, Any]:
    """The recipe's positions; scaled variants of RoPE (yarn, llama3, ...) are refused by name."""
    parameters = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    for found in (parameters, scaling):
        kind = found.get("rope_type", found.get("type", "default"))
        if kind != "default":
            raise BadInput(
                f"config.json: RoPE of type {kind!r} has no equivalent in Litmus; plain RoPE ('default') is valid"
            )
    share = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if share != 1:
        raise BadInput(f"config.json: partial_rotary_factor = {share} has no equivalent in Litmus; 1.0 is valid")
    theta = parameters.get("rope_theta") or config.get("rope_theta") or 10_000.0
    return {"kind": "rope", "theta": float(theta)}
