"""The formats that Litmus reads and writes, and which one a recipe belongs to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litmus.errors import BadInput
from litmus.interop import deepseek, deepseek_v2, gpt2, llama, remote
from litmus.interop.config import Config
from litmus.interop.layout import Rule
from litmus.model import Decoder, Recipe


@dataclass(frozen=True)
class Format:
    """One published architecture.

    obstacles: what keeps a recipe from it. config: config.json of a model. recipe: the recipe of a config.json and the
    names of the tensors beside it. rules: where each tensor stands. renamed: a tensor's name as `rules` have it.
    adapted: the tensors with those factors of the config.json multiplied in that a recipe has no key for.
    """

    architecture: str
    obstacles: Callable[[Recipe], list[str]]
    config: Callable[[Decoder], dict[str, Any]]
    recipe: Callable[[Config, Collection[str]], dict[str, Any]]
    rules: Callable[[Decoder], list[Rule]]
    renamed: Callable[[str], str | None]
    adapted: Callable[[Config, dict[str, Tensor]], dict[str, Tensor]]


def _format(architecture: str, module: Any) -> Format:
    adapted = getattr(module, "adapted", lambda config, tensors: tensors)
    return Format(architecture, module.obstacles, module.config, module.recipe, module.rules, module.renamed, adapted)


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


def format_named(config: Config) -> Format:
    """The format that a config.json names; BadInput lists the supported ones."""
    named = config.get("architectures") or [None]
    if named[0] not in FORMATS:
        raise BadInput(f"config.json: architecture {named[0]!r} is not supported; supported: {', '.join(FORMATS)}")
    return FORMATS[named[0]]


def blank(recipe: Recipe) -> Decoder:
    """The model of a recipe on the meta device: its shapes without numbers."""
    with torch.device("meta"):
        return Decoder(recipe)
