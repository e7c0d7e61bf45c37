"""GPT-2: LayerNorm, learned positions, biases; its matrices are stored as (inputs, outputs)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from litmus.interop.config import Config, only, size
from litmus.interop.fitting import common, need, uniform
from litmus.interop.fitting import part as part_obstacles
from litmus.interop.layout import Rule, same, transposed
from litmus.model import Decoder, Recipe
from litmus.nn import AttentionConfig
from litmus.nn.feedforwards import DenseConfig, GeluConfig
from litmus.nn.norms import LayerNormConfig

ACTIVATIONS = {
    "gelu_new": {"kind": "gelu", "approximate": "tanh"},
    "gelu_pytorch_tanh": {"kind": "gelu", "approximate": "tanh"},
    "gelu": {"kind": "gelu", "approximate": "none"},
    "relu2": {"kind": "relu2"},
}


def obstacles(recipe: Recipe) -> list[str]:
    """What keeps a recipe from being a GPT-2."""
    parts = recipe.layer_parts()[0]
    mixer, feedforward = parts["mixer"], parts["feedforward"]
    found = [
        *uniform(recipe),
        *common(recipe, norm="layernorm", positions="learned"),
        *part_obstacles(mixer, "mixer", "attention", ("heads", "kv_heads", "head_dim", "bias")),
    ]
    if isinstance(recipe.norm, LayerNormConfig):
        found += need(recipe.norm.bias, "norm.bias is false", "set it to true")
    if isinstance(mixer, AttentionConfig):
        heads = mixer.heads or recipe.heads
        found += need(mixer.bias, "mixer.bias is false", "set it to true")
        found += need(mixer.kv_heads in (None, heads), f"mixer.kv_heads = {mixer.kv_heads}", f"set it to {heads}")
        width = mixer.head_dim or recipe.dim // heads
        found += need(width * heads == recipe.dim, f"mixer.head_dim = {width}", f"set it to {recipe.dim / heads:g}")
    if isinstance(feedforward, DenseConfig) and feedforward.kind in ("gelu", "relu2"):
        return found + need(feedforward.bias, "feedforward.bias is false", "set it to true")
    return [*found, f"feedforward is {feedforward.kind!r} (set feedforward to gelu or relu2)"]


def config(model: Decoder) -> dict[str, Any]:
    """config.json of a model that has no obstacles."""
    recipe = model.recipe
    feedforward = recipe.layer_parts()[0]["feedforward"]
    tanh = isinstance(feedforward, GeluConfig) and feedforward.approximate == "tanh"
    layer: Any = model.layers[0]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": recipe.vocab_size,
        "n_positions": recipe.context,
        "n_embd": recipe.dim,
        "n_layer": recipe.depth,
        "n_head": layer.mixer.heads,
        "n_inner": layer.feedforward.down.in_features,
        "activation_function": "gelu_new" if tanh else feedforward.kind,
        "layer_norm_epsilon": recipe.norm.eps,
        "embd_pdrop": recipe.dropout,
        "resid_pdrop": recipe.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": recipe.head.tied,
    }


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a GPT-2's config.json describes."""
    only(config, "activation_function", *ACTIVATIONS)
    only(config, "scale_attn_weights", True)
    only(config, "scale_attn_by_inverse_layer_idx", False)
    dim = size(config, "n_embd")
    return {
        "vocab_size": size(config, "vocab_size"),
        "context": size(config, "n_positions"),
        "dim": dim,
        "depth": size(config, "n_layer"),
        "heads": size(config, "n_head"),
        "dropout": config.get("resid_pdrop", 0.1),
        "norm": {"kind": "layernorm", "eps": config.get("layer_norm_epsilon", 1e-5)},
        "positions": {"kind": "learned"},
        "mixer": {"kind": "attention", "bias": True},
        "feedforward": {
            **ACTIVATIONS[config.get("activation_function", "gelu_new")],
            "hidden": config.get("n_inner") or 4 * dim,
            "bias": True,
        },
        "head": {"tied": bool(config.get("tie_word_embeddings", True))},
    }


def rules(model: Decoder) -> list[Rule]:
    """Where each tensor of the model stands in a GPT-2."""
    tied = model.recipe.head.tied
    found = [same("embedding.weight", "transformer.wte.weight", copies=("lm_head.weight",) if tied else ())]
    if not tied:
        found.append(same("head.weight", "lm_head.weight"))
    found.append(same("positions.weight", "transformer.wpe.weight"))
    for number in range(model.recipe.depth):
        ours, theirs = f"layers.{number}", f"transformer.h.{number}"
        matrices = {
            "mixer.qkv": "attn.c_attn",
            "mixer.out": "attn.c_proj",
            "feedforward.up": "mlp.c_fc",
            "feedforward.down": "mlp.c_proj",
        }
        for mine, yours in matrices.items():
            found.append(transposed(f"{ours}.{mine}.weight", f"{theirs}.{yours}.weight"))
            found.append(same(f"{ours}.{mine}.bias", f"{theirs}.{yours}.bias"))
        for mine, yours in {"mixer_norm": "ln_1", "feedforward_norm": "ln_2"}.items():
            found += [same(f"{ours}.{mine}.{kind}", f"{theirs}.{yours}.{kind}") for kind in ("weight", "bias")]
    return found + [same(f"norm.{kind}", f"transformer.ln_f.{kind}") for kind in ("weight", "bias")]


def renamed(name: str) -> str | None:
    """The tensor's name as `rules` have it: GPT-2's own file lacks the prefix and holds masks as buffers."""
    if re.search(r"h\.\d+\.attn\.(masked_)?bias$", name):
        return None
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
