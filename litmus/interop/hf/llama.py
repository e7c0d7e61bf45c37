"""Llama and Qwen3: RMSNorm, RoPE, SwiGLU, grouped-query attention; Qwen3 adds QK-norm."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from litmus.data.json_files import checked
from litmus.interop.hf.adapter import (
    HFAdapter,
    common_incompatibilities,
    layer_incompatibilities,
    part_incompatibilities,
    require,
)
from litmus.interop.hf.config import Config, RopeModelConfig, Size, check_count, rope_to_hf
from litmus.interop.hf.folder import CONFIG
from litmus.interop.hf.state_dict_mapping import TensorMapping, same, stacked_rows
from litmus.model import Decoder, Recipe
from litmus.nn import Attention, AttentionConfig
from litmus.nn.layers.feedforwards import DenseConfig


class LlamaConfig(RopeModelConfig):
    """The keys of config.json that are read."""

    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None


class LlamaAdapter(HFAdapter):
    """LlamaForCausalLM and, with QK-norm, Qwen3ForCausalLM."""

    def incompatibilities(self, recipe: Recipe) -> list[str]:
        parts = recipe.layer_parts()[0]
        mixer, feedforward = parts["mixer"], parts["feedforward"]
        found = [
            *layer_incompatibilities(recipe),
            *common_incompatibilities(recipe, norm="rmsnorm", positions="rope"),
            *part_incompatibilities(mixer, "mixer", "attention", ("heads", "kv_heads", "head_dim", "bias", "qk_norm")),
            *part_incompatibilities(feedforward, "feedforward", "swiglu", ("hidden", "bias")),
        ]
        if isinstance(mixer, AttentionConfig) and mixer.qk_norm and isinstance(feedforward, DenseConfig):
            found += require(
                not feedforward.bias, "feedforward.bias together with QK-norm", "set feedforward.bias to false"
            )
        return found

    def hf_config(self, model: Decoder) -> dict[str, Any]:
        recipe, mixer = model.recipe, _attention(model)
        qk_norm = mixer.q_norm is not None
        feedforward: Any = model.layers[0].feedforward
        written = {
            "architectures": ["Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM"],
            "model_type": "qwen3" if qk_norm else "llama",
            "vocab_size": recipe.vocab_size,
            "max_position_embeddings": recipe.context,
            "hidden_size": recipe.dim,
            "intermediate_size": feedforward.down.in_features,
            "num_hidden_layers": recipe.depth,
            "num_attention_heads": mixer.heads,
            "num_key_value_heads": mixer.kv_heads,
            "head_dim": mixer.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": recipe.norm.eps,
            **rope_to_hf(recipe.positions),
            "attention_bias": mixer.qkv.bias is not None,
            "tie_word_embeddings": recipe.head.tied,
        }
        return written if qk_norm else {**written, "mlp_bias": feedforward.down.bias is not None}

    def to_recipe(self, config: Config, names: Collection[str]) -> dict[str, Any]:
        hf = checked(LlamaConfig, dict(config), CONFIG)
        qk_norm = config["architectures"][0] == "Qwen3ForCausalLM"
        heads = hf.num_attention_heads
        return {
            "vocab_size": hf.vocab_size,
            "context": hf.max_position_embeddings,
            "dim": hf.hidden_size,
            "depth": check_count(hf.num_hidden_layers, "num_hidden_layers", names),
            "heads": heads,
            "norm": {"kind": "rmsnorm", "eps": hf.rms_norm_eps},
            "positions": hf.positions(),
            "mixer": {
                "kind": "attention",
                "kv_heads": hf.num_key_value_heads or heads,
                "head_dim": hf.head_dim or (128 if qk_norm else max(1, hf.hidden_size // heads)),
                "bias": bool(hf.attention_bias),
                "qk_norm": qk_norm,
            },
            "feedforward": {"kind": "swiglu", "hidden": hf.intermediate_size, "bias": bool(hf.mlp_bias)},
            "head": {"tied": bool(hf.tie_word_embeddings)},
        }

    def state_dict_mapping(self, model: Decoder) -> list[TensorMapping]:
        mixer = _attention(model)
        feedforward: Any = model.layers[0].feedforward
        rows = [mixer.heads * mixer.head_dim, *[mixer.kv_heads * mixer.head_dim] * 2]
        found = embedding_mappings(model, write_head=False)
        for number in range(model.recipe.depth):
            ours, theirs = f"layers.{number}", f"model.layers.{number}"
            found += norm_mappings(ours, theirs)
            for kind in ("weight", *(["bias"] if mixer.qkv.bias is not None else [])):
                heads = [f"{theirs}.self_attn.{name}_proj.{kind}" for name in "qkv"]
                found.append(stacked_rows(f"{ours}.mixer.qkv.{kind}", heads, rows))
                found.append(same(f"{ours}.mixer.out.{kind}", f"{theirs}.self_attn.o_proj.{kind}"))
            if mixer.q_norm is not None:
                found += [same(f"{ours}.mixer.{n}_norm.weight", f"{theirs}.self_attn.{n}_norm.weight") for n in "qk"]
            found += swiglu_mappings(f"{ours}.feedforward", f"{theirs}.mlp", feedforward.down.in_features)
            if feedforward.down.bias is not None:
                found += swiglu_mappings(f"{ours}.feedforward", f"{theirs}.mlp", feedforward.down.in_features, "bias")
        return found

    def map_key(self, name: str) -> str | None:
        return None if re.search(r"rotary_emb\.inv_freq$", name) else name  # a buffer of older files


def embedding_mappings(model: Decoder, *, write_head: bool, head_copies: tuple[str, ...] = ()) -> list[TensorMapping]:
    """Embedding, head and last norm by Llama's names; a tied head is a copy of the embedding."""
    found = [same("norm.weight", "model.norm.weight")]
    if model.recipe.head.tied:
        copies = ("lm_head.weight", *head_copies)
        return [same("embedding.weight", "model.embed_tokens.weight", copies=copies, write_copies=write_head), *found]
    return [
        same("embedding.weight", "model.embed_tokens.weight"),
        same("head.weight", "lm_head.weight", copies=head_copies, write_copies=write_head),
        *found,
    ]


def norm_mappings(ours: str, theirs: str) -> list[TensorMapping]:
    """The two norms of a layer."""
    return [
        same(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight"),
        same(f"{ours}.feedforward_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
    ]


def swiglu_mappings(ours: str, theirs: str, hidden: int, kind: str = "weight") -> list[TensorMapping]:
    """The matrices (or biases) of a SwiGLU."""
    names = [f"{theirs}.{name}_proj.{kind}" for name in ("gate", "up")]
    return [
        stacked_rows(f"{ours}.gate_up.{kind}", names, [hidden, hidden]),
        same(f"{ours}.down.{kind}", f"{theirs}.down_proj.{kind}"),
    ]


def _attention(model: Decoder) -> Attention:
    mixer: Any = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    return mixer
