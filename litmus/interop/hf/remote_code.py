"""Models that transformers has no class for: a folder with its own modelling file next to the weights."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from typing import Any

from litmus.errors import BadInput
from litmus.interop.hf.adapter import HFAdapter, part_incompatibilities, require, structure_incompatibilities
from litmus.interop.hf.config import Config, check_count
from litmus.interop.hf.state_dict_mapping import TensorMapping, same
from litmus.model import Decoder, Recipe
from litmus.model.storage import weights
from litmus.nn import Attention, MixtureOfExperts, Mla, SSMaxConfig
from litmus.nn.layers.norms import LayerNormConfig

MODULE = "modeling_litmus"

ARCHITECTURE = "LitmusForCausalLM"

MIXERS = {
    "attention": ("heads", "kv_heads", "head_dim", "bias", "qk_norm", "ssmax"),
    "mla": ("heads", "kv_rank", "latent_query", "q_rank", "nope_dim", "rope_dim", "value_dim", "ssmax", "absorb"),
}

FEEDFORWARDS = {
    "gelu": ("hidden", "bias", "approximate"),
    "relu2": ("hidden", "bias"),
    "swiglu": ("hidden", "bias"),
    "moe": ("experts", "top_k", "shared", "hidden", "router"),
}


class RemoteCodeAdapter(HFAdapter):
    """LitmusForCausalLM, whose modelling file is part of the folder; for inference only."""

    def incompatibilities(self, recipe: Recipe) -> list[str]:
        found = require(recipe.plugin is None, "the recipe comes from a plug-in", "use built-in parts")
        known_norm = recipe.norm.kind in ("rmsnorm", "layernorm")
        found += require(known_norm, f"norm is {recipe.norm.kind!r}", "set it to rmsnorm")
        known = ("rope", "none", "learned", "sinusoidal")
        found += require(recipe.positions.kind in known, f"positions is {recipe.positions.kind!r}", "set it to rope")
        found += structure_incompatibilities(recipe)
        scaled = getattr(recipe.positions, "scaling", None) is not None
        found += require(not scaled, "positions.scaling", "leave it out")
        for parts in recipe.layer_parts():
            found += require(parts["block"].kind == "prenorm", f"block is {parts['block'].kind!r}", "set it to prenorm")
            for family, kinds in (("mixer", MIXERS), ("feedforward", FEEDFORWARDS)):
                kind = parts[family].kind
                if kind not in kinds:
                    found.append(f"{family} is {kind!r} (set {family} to {' or '.join(kinds)})")
                else:
                    found += part_incompatibilities(parts[family], family, kind, kinds[kind])
            router = getattr(parts["feedforward"], "router", None)
            if router is not None:
                known_router = router.kind in ("softmax", "sigmoid")
                found += require(known_router, f"feedforward.router is {router.kind!r}", "set it to sigmoid")
        return list(dict.fromkeys(found))

    def hf_config(self, model: Decoder) -> dict[str, Any]:
        """config.json with every width spelled out."""
        recipe = model.recipe
        norm = {"kind": recipe.norm.kind, "eps": recipe.norm.eps}
        if isinstance(recipe.norm, LayerNormConfig):
            norm["bias"] = recipe.norm.bias
        layers = [
            {
                "mixer": _mixer(layer.mixer, parts["mixer"]),
                "feedforward": _feedforward(layer.feedforward, parts["feedforward"]),
            }
            for layer, parts in zip(model.layers, recipe.layer_parts(), strict=True)
        ]
        return {
            "architectures": [ARCHITECTURE],
            "model_type": "litmus",
            "auto_map": {"AutoConfig": f"{MODULE}.LitmusConfig", "AutoModelForCausalLM": f"{MODULE}.{ARCHITECTURE}"},
            "vocab_size": recipe.vocab_size,
            "max_position_embeddings": recipe.context,
            "hidden_size": recipe.dim,
            "num_hidden_layers": recipe.depth,
            "num_attention_heads": recipe.heads,
            "norm": norm,
            "positions": recipe.positions.model_dump(),
            "layers": layers,
            "head_bias": recipe.head.bias,
            "tie_word_embeddings": recipe.head.tied,
            "litmus_recipe": recipe.to_dict(),
        }

    def to_recipe(self, config: Config, names: Collection[str]) -> dict[str, Any]:
        """The recipe that the folder was exported with, without its objective."""
        written = config.get("litmus_recipe")
        if not isinstance(written, dict):
            raise BadInput(f"config.json of a {ARCHITECTURE} holds no litmus_recipe; export the run again")
        if code := [key for key in ("base", "plugin") if written.get(key)]:
            raise BadInput(
                f"litmus_recipe in config.json has the key {code[0]!r}, which names code; no export writes that"
            )
        if isinstance(depth := written.get("depth"), int):
            check_count(depth, "litmus_recipe.depth", names)
        return {key: value for key, value in written.items() if key not in ("name", "about", "objective")}

    def state_dict_mapping(self, model: Decoder) -> list[TensorMapping]:
        """Every tensor that the logits depend on, by its own name."""
        return [same(name, name) for name in weights(model) if not name.startswith("objective.")]


def modelling_file() -> str:
    """The source of the self-contained modelling file."""
    return (files("litmus.interop.hf") / f"{MODULE}.py.txt").read_text(encoding="utf-8")


def _mixer(mixer: Any, part: Any) -> dict[str, Any]:
    ssmax = SSMaxConfig.model_dump(part.ssmax) if part.ssmax else None
    if isinstance(mixer, Mla):
        q_rank = None if mixer.q_down is None else mixer.q_down.out_features
        widths = {"nope_dim": mixer.nope, "rope_dim": mixer.rope, "value_dim": mixer.value}
        return {"kind": "mla", "heads": mixer.heads, "kv_rank": mixer.rank, "q_rank": q_rank, **widths, "ssmax": ssmax}
    assert isinstance(mixer, Attention)
    sizes = {"heads": mixer.heads, "kv_heads": mixer.kv_heads, "head_dim": mixer.head_dim}
    return {"kind": "attention", **sizes, "bias": part.bias, "qk_norm": part.qk_norm, "ssmax": ssmax}


def _feedforward(feedforward: Any, part: Any) -> dict[str, Any]:
    whole = part.model_dump()
    if isinstance(feedforward, MixtureOfExperts):
        return {**whole, "hidden": feedforward.experts.down.shape[-1], "router": part.router.model_dump()}
    return {**whole, "hidden": feedforward.down.in_features}
