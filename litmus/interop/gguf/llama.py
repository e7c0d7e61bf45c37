"""A Llama in a GGUF file: its metadata and tensors as config.json and safetensors have them.

Its keys and names are described in the repository ggml-org/ggml, docs, gguf.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from litmus.data.json_files import Declared, checked
from litmus.data.tokens.hf_tokenizer import ImportedTokenizer
from litmus.errors import BadInput, nearest, shown
from litmus.generation.generation_config import generation_defaults
from litmus.interop.gguf.file import GgufFile, read_gguf
from litmus.interop.gguf.tokenizer import to_tokenizer
from litmus.interop.hf.config import Positive, Size
from litmus.interop.hf.published import Published

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

NEUTRAL_VALUES: dict[str, Any] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.scale": 0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "embedding_scale": 1,
    "expert_count": 0,
    "final_logit_softcapping": 0,
    "logit_scale": 1,
    "residual_scale": 1,
    "rope.scale_linear": 1,
    "rope.scaling.type": "none",
    "use_parallel_residual": False,
}
"""Keys that change what a model computes and have no equivalent, with the values that change nothing."""


class LlamaKeys(Declared):
    """The metadata of a Llama that is read."""

    architecture: Literal["llama"] = Field(alias="general.architecture")
    context: Size = Field(alias="llama.context_length")
    dim: Size = Field(alias="llama.embedding_length")
    depth: Size = Field(alias="llama.block_count")
    hidden: Size = Field(alias="llama.feed_forward_length")
    heads: Size = Field(alias="llama.attention.head_count")
    kv_heads: Size | None = Field(None, alias="llama.attention.head_count_kv")
    eps: Positive = Field(alias="llama.attention.layer_norm_rms_epsilon")
    theta: Positive = Field(10_000.0, alias="llama.rope.freq_base")
    key_width: Size | None = Field(None, alias="llama.attention.key_length")
    value_width: Size | None = Field(None, alias="llama.attention.value_length")
    rotated_width: Size | None = Field(None, alias="llama.rope.dimension_count")


class SamplingKeys(Declared):
    """The metadata about how to sample that has an equivalent in generation_config.json."""

    temperature: float | None = Field(None, alias="general.sampling.temp")
    top_k: int | None = Field(None, alias="general.sampling.top_k")
    top_p: float | None = Field(None, alias="general.sampling.top_p")
    min_p: float | None = Field(None, alias="general.sampling.min_p")
    repetition_penalty: float | None = Field(None, alias="general.sampling.penalty_repeat")


def read_gguf_model(path: Path) -> tuple[Published, ImportedTokenizer]:
    """The model of a GGUF file and its tokenizer. BadInput for damaged files and what has no equivalent."""
    file, origin = read_gguf(path), str(path)
    config = to_config(file, origin)
    tokenizer = to_tokenizer(file.metadata, path)
    assert tokenizer.around is not None
    stops = list(tokenizer.stop_ids)
    ids = {"bos_token_id": tokenizer.around.bos, "eos_token_id": stops if len(stops) > 1 else stops[0]}
    generation = to_generation_config(file.metadata, origin)
    return Published(origin, {**config, **ids}, to_hf_tensors(file, config, origin), generation), tokenizer


def to_config(file: GgufFile, origin: str) -> dict[str, Any]:
    """The keys of config.json. BadInput for another architecture, missing keys, and what has no equivalent."""
    keys = checked(LlamaKeys, file.metadata, origin)
    for name, neutral in NEUTRAL_VALUES.items():
        if (found := file.metadata.get(f"llama.{name}", neutral)) != neutral:
            raise BadInput(f"{origin}: llama.{name} = {shown(found)} has no equivalent in Litmus; valid: {neutral!r}")
    head_dim = keys.key_width or max(1, keys.dim // keys.heads)
    widths = {"llama.attention.value_length": keys.value_width, "llama.rope.dimension_count": keys.rotated_width}
    for name, width in widths.items():
        if width not in (None, head_dim):
            raise BadInput(f"{origin}: {name} = {width} has no equivalent in Litmus; valid: {head_dim}, a head's width")
    if keys.depth > len(file.tensors):
        raise BadInput(f"{origin}: llama.block_count = {keys.depth}, and the file holds {len(file.tensors)} tensors")
    wanted = ["token_embd.weight", "output_norm.weight"]
    wanted += [f"blk.{number}.{name}.weight" for number in range(keys.depth) for name in LAYER_NAMES]
    if missing := [name for name in wanted if name not in file.tensors]:
        named = ", ".join(missing[:5])
        raise BadInput(f"{origin} lacks {len(missing)} tensors of a Llama with {keys.depth} layers: {named}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(file.tensors["token_embd.weight"]),
        "max_position_embeddings": keys.context,
        "hidden_size": keys.dim,
        "intermediate_size": keys.hidden,
        "num_hidden_layers": keys.depth,
        "num_attention_heads": keys.heads,
        "num_key_value_heads": keys.kv_heads or keys.heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": keys.eps,
        "rope_theta": keys.theta,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def to_generation_config(metadata: Mapping[str, Any], origin: str) -> dict[str, Any] | None:
    """generation_config.json, if the file says how to sample."""
    found = checked(SamplingKeys, dict(metadata), origin).model_dump(exclude_none=True)
    if not found:
        return None
    config = {"do_sample": True, **found}
    generation_defaults(config, f"{origin}: general.sampling")
    return config


def to_hf_tensors(file: GgufFile, config: Mapping[str, Any], origin: str) -> dict[str, Tensor]:
    """The tensors by their names in a Hugging Face folder, with the rows of queries and keys in its order."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        layer, part, kind = _parts(name, origin)
        if part in heads:
            tensor = _half_rotation(tensor, heads[part], config["head_dim"])
        prefix = NAMES[part] if layer is None else f"model.layers.{layer}.{LAYER_NAMES[part]}"
        found[f"{prefix}.{kind}"] = tensor
    return found


def _parts(name: str, origin: str) -> tuple[str | None, str, str]:
    """Layer, part and kind of a tensor by its name: "blk.3.attn_q.weight" is ("3", "attn_q", "weight")."""
    split = re.fullmatch(r"(?:blk\.(0|[1-9]\d*)\.)?(\w+)\.(weight|bias)", name)
    layer, part, kind = split.groups() if split else (None, "", "")
    names = NAMES if layer is None else LAYER_NAMES
    if part not in names:
        raise BadInput(
            f"{origin}: its tensor {shown(name)} has no equivalent in Litmus; {nearest(part or name, names)}"
        )
    return layer, part, kind


def _half_rotation(tensor: Tensor, heads: int, head_dim: int) -> Tensor:
    """The rows of each head in Hugging Face's order: RoPE turns row i with row i + D/2, and in GGUF 2i with 2i + 1."""
    if len(tensor) != heads * head_dim or head_dim % 2:
        return tensor  # its shape is reported where all shapes are compared
    return tensor.unflatten(0, (heads, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
