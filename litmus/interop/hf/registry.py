"""The architectures that can be read and written, and which one fits a recipe or a config.json."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from litmus.data.json_files import Declared, checked
from litmus.errors import BadInput, shown
from litmus.interop.hf import remote_code
from litmus.interop.hf.adapter import HFAdapter
from litmus.interop.hf.config import Config
from litmus.interop.hf.deepseek import DeepseekV2Adapter, DeepseekV3Adapter
from litmus.interop.hf.folder import CONFIG
from litmus.interop.hf.gpt2 import Gpt2Adapter
from litmus.interop.hf.llama import LlamaAdapter
from litmus.model import Decoder, Recipe
from litmus.runtime.meta import meta_device

ADAPTERS: dict[str, HFAdapter] = {
    adapter.architecture: adapter
    for adapter in (
        LlamaAdapter("LlamaForCausalLM"),
        LlamaAdapter("Qwen3ForCausalLM"),
        Gpt2Adapter("GPT2LMHeadModel"),
        DeepseekV2Adapter("DeepseekV2ForCausalLM"),
        DeepseekV3Adapter("DeepseekV3ForCausalLM"),
        remote_code.RemoteCodeAdapter(remote_code.ARCHITECTURE),
    )
}


def closest_adapter(recipe: Recipe) -> HFAdapter:
    """The architecture closest to a recipe; its incompatibilities are what remains to change."""
    mixer = recipe.layer_parts()[0]["mixer"]
    if mixer.kind == "mla":
        return ADAPTERS["DeepseekV3ForCausalLM"]
    if recipe.norm.kind == "layernorm":
        return ADAPTERS["GPT2LMHeadModel"]
    return ADAPTERS["Qwen3ForCausalLM" if getattr(mixer, "qk_norm", False) else "LlamaForCausalLM"]


class Architectures(Declared):
    """The model class in config.json."""

    architectures: Annotated[list[str], Field(min_length=1)] | None = None


def adapter_of(config: Config) -> HFAdapter:
    """The adapter of a config.json's architecture; BadInput lists the supported ones."""
    named = checked(Architectures, dict(config), CONFIG).architectures
    if named is None or named[0] not in ADAPTERS:
        found = shown(named[0] if named else None)
        raise BadInput(f"{CONFIG}: architecture {found} is not supported; supported: {', '.join(ADAPTERS)}")
    return ADAPTERS[named[0]]


def meta_decoder(recipe: Recipe) -> Decoder:
    """The model of a recipe on the meta device: shapes without data. BadInput for sizes beyond any memory."""
    try:
        with meta_device():
            return Decoder(recipe)
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{recipe.name!r} describes a model that cannot be built: {reason}") from None
