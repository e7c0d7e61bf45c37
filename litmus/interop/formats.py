"""The formats that Litmus reads and writes, and which one a recipe belongs to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field

from litmus.data.json_files import Declared, checked
from litmus.errors import BadInput, shown
from litmus.interop import deepseek, deepseek_v2, gpt2, llama, remote
from litmus.interop.config import Config
from litmus.interop.folder import CONFIG
from litmus.interop.layout import Rule
from litmus.model import Decoder, Recipe


@dataclass(frozen=True)
class Format:
    """One published architecture.

    obstacles: what keeps a recipe from it. config: config.json of a model. recipe: the recipe of a config.json and the
    names of the tensors next to it. rules: where each tensor stands. renamed: a tensor's name as `rules` have it.
    factors: those factors of a config.json that a recipe has no key for, by the end of the names of their tensors.
    """

    architecture: str
    obstacles: Callable[[Recipe], list[str]]
    config: Callable[[Decoder], dict[str, Any]]
    recipe: Callable[[Config, Collection[str]], dict[str, Any]]
    rules: Callable[[Decoder], list[Rule]]
    renamed: Callable[[str], str | None]
    factors: Callable[[Config], dict[str, float]]


def _format(architecture: str, module: Any) -> Format:
    factors: Callable[[Config], dict[str, float]] = getattr(module, "factors", lambda config: {})
    return Format(architecture, module.obstacles, module.config, module.recipe, module.rules, module.renamed, factors)


FORMATS = {
    name: _format(name, module)
    for name, module in {
        "LlamaForCausalLM": llama,
        "Qwen3ForCausalLM": llama,
        "GPT2LMHeadModel": gpt2,
        "DeepseekV2ForCausalLM": deepseek_v2,
        "DeepseekV3ForCausalLM": deepseek,
        remote.ARCHITECTURE: remote,
    }.items()
}


def format_of(recipe: Recipe) -> Format:
    """The format that a recipe comes closest to; its obstacles say what is still in the way."""
    mixer = recipe.layer_parts()[0]["mixer"]
    if mixer.kind == "mla":
        return FORMATS["DeepseekV3ForCausalLM"]
    if recipe.norm.kind == "layernorm":
        return FORMATS["GPT2LMHeadModel"]
    return FORMATS["Qwen3ForCausalLM" if getattr(mixer, "qk_norm", False) else "LlamaForCausalLM"]


class Architectures(Declared):
    """Which model class config.json names."""

    architectures: Annotated[list[str], Field(min_length=1)] | None = None


def format_named(config: Config) -> Format:
    """The format that a config.json names; BadInput lists the supported ones."""
    named = checked(Architectures, dict(config), CONFIG).architectures
    if named is None or named[0] not in FORMATS:
        found = shown(named[0] if named else None)
        raise BadInput(f"{CONFIG}: architecture {found} is not supported; supported: {', '.join(FORMATS)}")
    return FORMATS[named[0]]


def blank(recipe: Recipe) -> Decoder:
    """The model of a recipe on the meta device: its shapes without numbers. BadInput for sizes that no memory holds."""
    try:
        with torch.device("meta"):
            return Decoder(recipe)
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{recipe.name!r} describes a model that cannot be made: {reason}") from None
