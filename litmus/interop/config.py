"""Reading a Hugging Face config.json: keys that must be there, values that Litmus knows, and RoPE."""

from __future__ import annotations

import math
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


def number(config: Config, key: str) -> float:
    """A number above 0 that the architecture cannot do without."""
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise BadInput(f"config.json: {key} = {value!r}; a number above 0 is valid")
    return float(value)


def rope_settings(config: Config) -> dict[str, Any]:
    """What a config.json says of RoPE, in its newer form or its older one; "default" is the kind of the plain one."""
    said = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = said.get("rope_type") or said.get("type") or "default"
    return {**said, "rope_type": kind, "rope_theta": said.get("rope_theta") or config.get("rope_theta") or 10_000.0}


def rope(config: Config) -> dict[str, Any]:
    """The recipe's positions; scaled variants of RoPE other than yarn and llama3 are refused by name."""
    said = rope_settings(config)
    share = said.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if share != 1:
        raise BadInput(f"config.json: partial_rotary_factor = {share} has no equivalent in Litmus; 1.0 is valid")
    plain = {"kind": "rope", "theta": float(said["rope_theta"])}
    if said["rope_type"] == "default":
        return plain
    if said["rope_type"] not in ("llama3", "yarn"):
        raise BadInput(
            f"config.json: RoPE of type {said['rope_type']!r} has no equivalent in Litmus; 'default', 'llama3' and "
            f"'yarn' are valid"
        )
    context = size(said, "original_max_position_embeddings")
    if said["rope_type"] == "llama3":
        turns = {"low": number(said, "low_freq_factor"), "high": number(said, "high_freq_factor")}
        return {**plain, "scaling": {"kind": "llama3", "factor": number(said, "factor"), "context": context, **turns}}
    only(said, "truncate", True)
    turns = {"low": said.get("beta_slow") or 1.0, "high": said.get("beta_fast") or 32.0}
    factor = number(said, "factor") if said.get("factor") else size(config, "max_position_embeddings") / context
    amplitude = said.get("attention_factor") or _amplitude(factor, said.get("mscale"), said.get("mscale_all_dim"))
    scaling = {"kind": "yarn", "factor": factor, "context": context, "amplitude": amplitude, **turns}
    return {**plain, "scaling": scaling}


def written_rope(positions: Any) -> dict[str, Any]:
    """The keys of config.json for a recipe's RoPE."""
    scaling = positions.scaling
    if scaling is None:
        return {"rope_theta": positions.theta}
    low, high = ("low_freq_factor", "high_freq_factor") if scaling.kind == "llama3" else ("beta_slow", "beta_fast")
    said = {"rope_type": scaling.kind, "factor": scaling.factor, low: scaling.low, high: scaling.high}
    if scaling.kind == "yarn":
        said["attention_factor"] = scaling.amplitude
    said["original_max_position_embeddings"] = scaling.context
    return {"rope_theta": positions.theta, "rope_scaling": said}


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """By how much YaRN raises what it stretches by `factor`: 0.1 · scale · ln(factor) + 1."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _amplitude(factor: float, scale: float | None, of_scores: float | None) -> float:
    if scale and of_scores:
        return yarn_magnitude(factor, scale) / yarn_magnitude(factor, of_scores)
    return yarn_magnitude(factor)
