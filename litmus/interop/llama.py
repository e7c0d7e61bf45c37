"""Llama and Qwen3: RMSNorm, RoPE, SwiGLU, grouped key-value heads; Qwen3 norms queries and keys besides."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from litmus.data.json_files import checked
from litmus.interop.config import Config, RopeModelConfig, Size, at_most, written_rope
from litmus.interop.fitting import common, need, part, uniform
from litmus.interop.folder import CONFIG
from litmus.interop.layout import Rule, same, stacked_rows
from litmus.model import Decoder, Recipe
from litmus.nn import Attention, AttentionConfig
from litmus.nn.layers.feedforwards import DenseConfig


def obstacles(recipe: Recipe) -> list[str]:
    """What keeps a recipe from being a Llama or, with QK-norm, a Qwen3."""
    parts = recipe.layer_parts()[0]
    mixer, feedforward = parts["mixer"], parts["feedforward"]
    found = [
        *uniform(recipe),
        *common(recipe, norm="rmsnorm", positions="rope"),
        *part(mixer, "mixer", "attention", ("heads", "kv_heads", "head_dim", "bias", "qk_norm")),
        *part(feedforward, "feedforward", "swiglu", ("hidden", "bias")),
    ]
    if isinstance(mixer, AttentionConfig) and mixer.qk_norm and isinstance(feedforward, DenseConfig):
        found += need(not feedforward.bias, "feedforward.bias together with QK-norm", "set feedforward.bias to false")
    return found


def config(model: Decoder) -> dict[str, Any]:
    """config.json of a model that has no obstacles."""
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
        **written_rope(recipe.positions),
        "attention_bias": mixer.qkv.bias is not None,
        "tie_word_embeddings": recipe.head.tied,
    }
    return written if qk_norm else {**written, "mlp_bias": feedforward.down.bias is not None}


class LlamaConfig(RopeModelConfig):
    """What is read of config.json."""

    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a Llama's or Qwen3's config.json describes."""
    said = checked(LlamaConfig, dict(config), CONFIG)
    qk_norm = config["architectures"][0] == "Qwen3ForCausalLM"
    heads = said.num_attention_heads
    return {
        "vocab_size": said.vocab_size,
        "context": said.max_position_embeddings,
        "dim": said.hidden_size,
        "depth": at_most(said.num_hidden_layers, "num_hidden_layers", names),
        "heads": heads,
        "norm": {"kind": "rmsnorm", "eps": said.rms_norm_eps},
        "positions": said.positions(),
        "mixer": {
            "kind": "attention",
            "kv_heads": said.num_key_value_heads or heads,
            "head_dim": said.head_dim or (128 if qk_norm else max(1, said.hidden_size // heads)),
            "bias": bool(said.attention_bias),
            "qk_norm": qk_norm,
        },
        "feedforward": {"kind": "swiglu", "hidden": said.intermediate_size, "bias": bool(said.mlp_bias)},
        "head": {"tied": bool(said.tie_word_embeddings)},
    }


def rules(model: Decoder) -> list[Rule]:
    """Where each tensor of the model stands in a Llama or Qwen3."""
    mixer = _attention(model)
    feedforward: Any = model.layers[0].feedforward
    rows = [mixer.heads * mixer.head_dim, *[mixer.kv_heads * mixer.head_dim] * 2]
    found = embedding_rules(model, write_head=False)
    for number in range(model.recipe.depth):
        ours, theirs = f"layers.{number}", f"model.layers.{number}"
        found += norm_rules(ours, theirs)
        for kind in ("weight", *(["bias"] if mixer.qkv.bias is not None else [])):
            heads = [f"{theirs}.self_attn.{name}_proj.{kind}" for name in "qkv"]
            found.append(stacked_rows(f"{ours}.mixer.qkv.{kind}", heads, rows))
            found.append(same(f"{ours}.mixer.out.{kind}", f"{theirs}.self_attn.o_proj.{kind}"))
        if mixer.q_norm is not None:
            found += [same(f"{ours}.mixer.{n}_norm.weight", f"{theirs}.self_attn.{n}_norm.weight") for n in "qk"]
        found += swiglu_rules(f"{ours}.feedforward", f"{theirs}.mlp", feedforward.down.in_features)
        if feedforward.down.bias is not None:
            found += swiglu_rules(f"{ours}.feedforward", f"{theirs}.mlp", feedforward.down.in_features, "bias")
    return found


def renamed(name: str) -> str | None:
    """The tensor's name as `rules` have it, None for a buffer that older files hold and nobody needs."""
    return None if re.search(r"rotary_emb\.inv_freq$", name) else name


def embedding_rules(model: Decoder, *, write_head: bool, head_copies: tuple[str, ...] = ()) -> list[Rule]:
    """Embedding, head and last norm under Llama's names; a tied head is a copy of the embedding."""
    found = [same("norm.weight", "model.norm.weight")]
    if model.recipe.head.tied:
        copies = ("lm_head.weight", *head_copies)
        return [same("embedding.weight", "model.embed_tokens.weight", copies=copies, write_copies=write_head), *found]
    return [
        same("embedding.weight", "model.embed_tokens.weight"),
        same("head.weight", "lm_head.weight", copies=head_copies, write_copies=write_head),
        *found,
    ]


def norm_rules(ours: str, theirs: str) -> list[Rule]:
    """The two norms of a layer."""
    return [
        same(f"{ours}.mixer_norm.weight", f"{theirs}.input_layernorm.weight"),
        same(f"{ours}.feedforward_norm.weight", f"{theirs}.post_attention_layernorm.weight"),
    ]


def swiglu_rules(ours: str, theirs: str, hidden: int, kind: str = "weight") -> list[Rule]:
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
