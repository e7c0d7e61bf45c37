"""GPT-2: LayerNorm, learned positions, biases; its matrices are stored as (inputs, outputs)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from litmus.data.json_files import checked
from litmus.interop.hf.adapter import (
    HFAdapter,
    common_incompatibilities,
    layer_incompatibilities,
    part_incompatibilities,
    require,
)
from litmus.interop.hf.config import Config, ModelConfig, Positive, Size, check_count
from litmus.interop.hf.folder import CONFIG
from litmus.interop.hf.state_dict_mapping import TensorMapping, same, transposed
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


class Gpt2Config(ModelConfig):
    """The keys of config.json that are read."""

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


class Gpt2Adapter(HFAdapter):
    """GPT2LMHeadModel."""

    def incompatibilities(self, recipe: Recipe) -> list[str]:
        parts = recipe.layer_parts()[0]
        mixer, feedforward = parts["mixer"], parts["feedforward"]
        found = [
            *layer_incompatibilities(recipe),
            *common_incompatibilities(recipe, norm="layernorm", positions="learned"),
            *part_incompatibilities(mixer, "mixer", "attention", ("heads", "kv_heads", "head_dim", "bias")),
        ]
        if isinstance(recipe.norm, LayerNormConfig):
            found += require(recipe.norm.bias, "norm.bias is false", "set it to true")
        if isinstance(mixer, AttentionConfig):
            heads = mixer.heads or recipe.heads
            found += require(mixer.bias, "mixer.bias is false", "set it to true")
            found += require(
                mixer.kv_heads in (None, heads), f"mixer.kv_heads = {mixer.kv_heads}", f"set it to {heads}"
            )
            width = mixer.head_dim or recipe.dim // heads
            found += require(
                width * heads == recipe.dim, f"mixer.head_dim = {width}", f"set it to {recipe.dim / heads:g}"
            )
        if isinstance(feedforward, DenseConfig) and feedforward.kind in ("gelu", "relu2"):
            return found + require(feedforward.bias, "feedforward.bias is false", "set it to true")
        return [*found, f"feedforward is {feedforward.kind!r} (set feedforward to gelu or relu2)"]

    def hf_config(self, model: Decoder) -> dict[str, Any]:
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

    def to_recipe(self, config: Config, names: Collection[str]) -> dict[str, Any]:
        hf = checked(Gpt2Config, dict(config), CONFIG)
        return {
            "vocab_size": hf.vocab_size,
            "context": hf.n_positions,
            "dim": hf.n_embd,
            "depth": check_count(hf.n_layer, "n_layer", names),
            "heads": hf.n_head,
            "dropout": hf.resid_pdrop,
            "norm": {"kind": "layernorm", "eps": hf.layer_norm_epsilon},
            "positions": {"kind": "learned"},
            "mixer": {"kind": "attention", "bias": True},
            "feedforward": {
                **ACTIVATIONS[hf.activation_function],
                "hidden": hf.n_inner or 4 * hf.n_embd,
                "bias": True,
            },
            "head": {"tied": hf.tie_word_embeddings is not False},
        }

    def state_dict_mapping(self, model: Decoder) -> list[TensorMapping]:
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

    def map_key(self, name: str) -> str | None:
        """GPT-2's own file lacks the prefix and holds masks as buffers."""
        if re.search(r"h\.\d+\.attn\.(masked_)?bias$", name):
            return None
        return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
