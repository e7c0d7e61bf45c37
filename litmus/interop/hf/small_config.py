"""A config of transformers with small numbers, for a model of the same class that takes seconds to check.

The sizes are known by the names that the configs of transformers give them; what a config does not have is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN, HEADS, HEAD_DIM, VOCABULARY = 32, 4, 8, 101

SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab_size|.*_vocab|vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size(_global)?|d_model|n_embd|dim|embedding_(size|dim)|emb_dim|word_embed_proj_dim|decoder_hidden_size|"
     r".*_embed_dim|adapter_in(_dim|put_size)|lru_width", HIDDEN),
    (r"(num_)?(hidden_|encoder_|decoder_)?layers|n_layers?|num_blocks|depth", 2),
    (r"(num_)?(encoder_|decoder_)?(attention_)?heads|n_heads?", HEADS),
    (r"num_(key_value|global_key_value|kv|query)_(heads|groups)|(num_)?kv_(n_)?heads|swa_num_key_value_heads|"
     r"linear_num_(key|value)_heads|index(er)?_n_heads", 2),
    (r"attention_head_dim", 2 * HEAD_DIM),
    (r"(\w*_)?head_dim|kv_channels|d_kv|d_head|rotary_dim|attention_head_size|mamba_d_head|mamba_headdim", HEAD_DIM),
    (r".*intermediate_size|ffn_dim|.*_ffn_dim|n_inner|d_ff|dff|d_inner|(\w*_)?ffn_hidden_size|dim_ff|mlp_hidden_size|"
     r"feed_forward_size", 48),
    (r"max_(position_embeddings|seq_len|sequence_length)|n_positions|n_ctx|seq_length|block_size|context_length|"
     r"max_target_positions", 64),
    (r"sliding_window(_size)?|attention_window_size|window_size|local_(attention_)?window_(size|len)|"
     r"(local|lsh)_attn_chunk_length", 8),
    (r"attention_chunk_size|chunk_size|mamba_chunk_size|q_lora_rank|kv_lora_rank|o_lora_rank|index_topk|"
     r"indexer_budget|hc_lowrank|adapter_rank", 16),
    (r"(num_(local_)?|n_routed_|moe_num_|num_routed_|num_moe_)experts", 4),
    (r"num_experts_per_(tok|token)|moe_top_?k|top_k_experts|moe_k|experts_per_token|num_selected_experts|"
     r"zero_expert_num", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_?groups|(n|num|moe_num)_shared_experts|"
     r"first_k_dense_replace|num_layers_per_stack", 1),
    (r"state_size|mamba_d_state|ssm_state_size|d_state|time_step_rank|mamba_dt_rank|mamba_n_heads|mamba_num_heads|"
     r"n_mamba_heads|hidden_size_per_layer_input|laurel_rank", 8),
    (r"mamba_d_ssm", 2 * HIDDEN),
)  # fmt: skip
"""Names of keys and the number that they become, unless it is smaller already."""

LAYER_KINDS = ("layer_types", "layers_block_type", "block_types")
LAYER_COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")


def small_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a config with small numbers, in its sub-configs too; every kind of layer stays.

    config: what `PreTrainedConfig.to_dict()` gives.
    """
    out = {key: small_value(key, value) for key, value in config.items() if key != "per_layer_config"}
    keep_layers(config, out)
    heads = config.get("num_attention_heads")
    if heads is not None and config.get("num_key_value_heads") == heads:
        out["num_key_value_heads"] = out["num_attention_heads"]
    for factor, count, width in (
        ("expand", "num_heads", "head_dim"),
        ("mamba_expand", "mamba_n_heads", "mamba_d_head"),
    ):
        if isinstance(out.get(factor), int) and {count, width, "hidden_size"} <= out.keys():
            out[count] = out[factor] * out["hidden_size"] // out[width]
    if {"hidden_size", "attention_hidden_size"} <= out.keys():
        out["attention_hidden_size"] = HIDDEN * config["attention_hidden_size"] // config["hidden_size"]
    if {"qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"} <= out.keys():
        out["qk_head_dim"] = out["qk_nope_head_dim"] + out["qk_rope_head_dim"]
    keep_special_tokens(out)
    return out


def small_value(key: str, value: Any) -> Any:
    """A small value of this key."""
    if isinstance(value, dict) and (key.endswith("config") or "model_type" in value):
        return small_config(value)
    if key == "attention_types":  # [[kinds, repeats], ...]
        return [[kinds, 1] for kinds, _ in value]
    if isinstance(value, list) and value and all(is_number(item) for item in value):
        return [small_value(key, item) for item in value]
    if is_number(value):
        return min(value, next((number for names, number in SIZES if re.fullmatch(names, key)), value))
    return value


def keep_layers(config: Mapping[str, Any], out: dict[str, Any]) -> None:
    """As many layers in `out` as show every kind of layer; lists with an entry per layer get as many."""
    count = next((key for key in LAYER_COUNTS if is_number(config.get(key))), "")
    if not count:
        return
    offsets = [config[key] for key in config if key.endswith("_layer_offset") and is_number(config[key])]
    out[count] = max([out[count], *(offset + 1 for offset in offsets)])
    for key in LAYER_KINDS:
        if kinds := config.get(key):
            chosen = list(dict.fromkeys(kinds))
            if len(kinds) < config[count]:  # a pattern that is repeated
                chosen = kinds
            elif len(chosen) == 1 or config.get("num_kv_shared_layers") or key == "layers_block_type":
                chosen = chosen * 2  # layers that share weights or a cache are two of a kind
            out[key], out[count] = chosen, len(chosen)
    if "hybrid_layer_ids" in config:
        out["hybrid_layer_ids"] = [n for n, kind in enumerate(out["layers_block_type"]) if kind == "hybrid"]
    if config.get("num_kv_shared_layers"):
        out["num_kv_shared_layers"] = out[count] // 2
    if "attention_types" in out:
        out[count] = sum(len(kinds) for kinds, _ in out["attention_types"] or ())
    if config.get("num_layers_per_stack"):
        out[count] = config[count] // config["num_layers_per_stack"]
    for key, value in config.items():
        if isinstance(value, list) and len(value) == config[count] and key not in LAYER_KINDS:
            out[key] = out[key][: out[count]]


def keep_special_tokens(out: dict[str, Any]) -> None:
    """Special tokens that lie in the vocabulary."""
    if not is_number(out.get("vocab_size")):
        return
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    for key, value in out.items():
        if key.endswith(("token_id", "token_index")) and (
            isinstance(value, list) or (is_number(value) and value >= out["vocab_size"])
        ):
            out[key] = tokens.get(key, 3)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What was changed at the top level: "hidden_size 4,096 -> 32, num_hidden_layers 32 -> 2"."""
    return ", ".join(
        f"{key} {value:,} -> {after[key]:,}"
        for key, value in before.items()
        if is_number(value) and is_number(after.get(key)) and value != after[key] and not key.endswith("token_id")
    )


def is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
