"""GPT-2: LayerNorm, learned positions, biases; its matrices are stored as (inputs, outputs)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from litmus.data.json_files import checked
from litmus.interop.config import Config, ModelConfig, Positive, Size, at_most
from litmus.interop.fitting import common, need, uniform
from litmus.interop.fitting import part as part_obstacles
from litmus.interop.folder import CONFIG
from litmus.interop.layout import Rule, same, transposed
from litmus.model import Decoder, Recipe
from litmus.nn import AttentionConfig
from litmus.nn.layers.feedforwards import DenseConfig, GeluConfig
from litmus.nn.layers.norms import LayerNormConfig

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


class Gpt2Config(ModelConfig):
    """What is read of config.json."""

    n_embd: Size
    n_layer: Size
    n_head: Size
    n_positions: Size
    n_inner: Size | None = None
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh", "gelu", "relu2"] = "gelu_new"
    layer_norm_epsilon: Positive = 1e-5
    resid_pdrop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a GPT-2's config.json describes."""
    said = checked(Gpt2Config, dict(config), CONFIG)
    return {
        "vocab_size": said.vocab_size,
        "context": said.n_positions,
        "dim": said.n_embd,
        "depth": at_most(said.n_layer, "n_layer", names),
        "heads": said.n_head,
        "dropout": said.resid_pdrop,
        "norm": {"kind": "layernorm", "eps": said.layer_norm_epsilon},
        "positions": {"kind": "learned"},
        "mixer": {"kind": "attention", "bias": True},
        "feedforward": {
            **ACTIVATIONS[said.activation_function],
            "hidden": said.n_inner or 4 * said.n_embd,
            "bias": True,
        },
        "head": {"tied": said.tie_word_embeddings is not False},
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
