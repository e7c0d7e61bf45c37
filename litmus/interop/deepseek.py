"""DeepSeek-V3: latent attention, dense first layers, then experts; modules of multi-token prediction after the last.

Two traps of the published format. Its rotated numbers stand in pairs (x_2i, x_2i+1) where Litmus has (x_i, x_i+w/2), so
the rows that make them are reordered. And its module ahead joins [embedding ; hidden], in Litmus [hidden ; embedding].
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from litmus.interop.config import Config, only, rope, rope_settings, size, written_rope, yarn_magnitude
from litmus.interop.fitting import common, need, part
from litmus.interop.layout import Rule, per_expert, reordered, same
from litmus.interop.llama import embedding_rules, norm_rules, swiglu_rules
from litmus.interop.llama import renamed as renamed
from litmus.model import Decoder, Recipe
from litmus.nn import Experts, MixtureOfExperts, Mla, MlaConfig, MoeConfig
from litmus.nn.mtp import MtpConfig
from litmus.nn.routing import SigmoidRouterConfig

WIDTHS = ("heads", "kv_rank", "latent_query", "q_rank", "nope_dim", "rope_dim", "value_dim", "absorb")


def obstacles(recipe: Recipe) -> list[str]:
    """What keeps a recipe from being a DeepSeek-V3."""
    layers = recipe.layer_parts()
    mixers = [parts["mixer"] for parts in layers]
    feedforwards = [parts["feedforward"] for parts in layers]
    experts = [found for found in feedforwards if found.kind == "moe"]
    dense = feedforwards[: len(feedforwards) - len(experts)]
    found = [
        *common(recipe, norm="rmsnorm", positions="rope"),
        *need(all(mixer == mixers[0] for mixer in mixers), "mixers differ between layers", "make them alike"),
        *part(mixers[0], "mixer", "mla", WIDTHS),
        *need(
            all(dense_one == dense[0] for dense_one in dense) and all(moe == experts[0] for moe in experts),
            "feedforwards are not some dense layers followed by layers of experts",
            "put dense layers first, each sort alike",
        ),
    ]
    if isinstance(mixers[0], MlaConfig):
        found += need(mixers[0].rope_dim != 0, "mixer.rope_dim = 0", "give an even width")
    if dense:
        found += part(dense[0], "feedforward", "swiglu", ("hidden",))
    if experts and isinstance(experts[0], MoeConfig):
        found += _expert_obstacles(experts[0])
    return found


def _expert_obstacles(moe: MoeConfig) -> list[str]:
    found = part(moe, "feedforward", "moe", ("experts", "top_k", "shared", "hidden", "router"))
    found += need(moe.shared > 0, "feedforward.shared = 0", "set it to 1 or more")
    router = moe.router
    if not isinstance(router, SigmoidRouterConfig):
        return [*found, f"feedforward.router is {router.kind!r} (set it to sigmoid)"]
    alone = f"feedforward.router.groups = {router.groups} of one expert each"
    return found + need(router.groups < moe.experts, alone, "let a group hold 2 experts or more")


def config(model: Decoder) -> dict[str, Any]:
    """config.json of a model that has no obstacles."""
    recipe, mixer = model.recipe, _latent(model, 0)
    feedforwards: list[Any] = [layer.feedforward for layer in model.layers]
    dense = [found for found in feedforwards if not isinstance(found, MixtureOfExperts)]
    ahead = recipe.objective.depth if isinstance(recipe.objective, MtpConfig) else 0
    all_dense = len(dense) == recipe.depth
    written = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": recipe.vocab_size,
        "max_position_embeddings": recipe.context,
        "hidden_size": recipe.dim,
        "num_hidden_layers": recipe.depth,
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.heads,
        "q_lora_rank": None if mixer.q_down is None else mixer.q_down.out_features,
        "kv_lora_rank": mixer.rank,
        "qk_nope_head_dim": mixer.nope,
        "qk_rope_head_dim": mixer.rope,
        "v_head_dim": mixer.value,
        "hidden_act": "silu",
        "rms_norm_eps": recipe.norm.eps,
        **written_rope(recipe.positions),
        "rope_interleave": True,
        "attention_bias": False,
        "tie_word_embeddings": recipe.head.tied,
        "first_k_dense_replace": recipe.depth + ahead if all_dense else len(dense),
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": ahead,
        "intermediate_size": (dense[0] if dense else feedforwards[0].shared).down.in_features,
    }
    if all_dense:
        return written
    moe = recipe.layer_parts()[-1]["feedforward"]
    assert isinstance(moe, MoeConfig)
    return {
        **written,
        "moe_intermediate_size": feedforwards[-1].experts.down.shape[-1],
        "n_routed_experts": moe.experts,
        "n_shared_experts": moe.shared,
        "num_experts_per_tok": moe.top_k,
        "n_group": moe.router.groups,
        "topk_group": moe.router.top_groups,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": moe.router.scale,
    }


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a DeepSeek-V3's config.json and the names of its tensors describe."""
    only(config, "norm_topk_prob", True)
    only(config, "scoring_func", "sigmoid")
    only(config, "topk_method", "noaux_tc")
    only(config, "rope_interleave", True)
    router = {
        "kind": "sigmoid",
        "scale": config.get("routed_scaling_factor", 2.5),
        "groups": config.get("n_group") or 1,
        "top_groups": config.get("topk_group") or 1,
    }
    described = latent_recipe(config, router, first_dense=config.get("first_k_dense_replace", 3))
    promised, depth = config.get("num_nextn_predict_layers") or 0, described["depth"]
    if promised and any(name.startswith(f"model.layers.{depth}.") for name in names):
        described["objective"] = {"kind": "mtp", "depth": promised}
    return described


def latent_recipe(config: Config, router: dict[str, Any], *, first_dense: int) -> dict[str, Any]:
    """What the recipes of DeepSeek-V2 and V3 have in common; they differ in the router."""
    only(config, "hidden_act", "silu")
    only(config, "attention_bias", False)
    only(config, "moe_layer_freq", 1)
    depth = size(config, "num_hidden_layers")
    swiglu = {"kind": "swiglu", "hidden": size(config, "intermediate_size")}
    described: dict[str, Any] = {
        "vocab_size": size(config, "vocab_size"),
        "context": size(config, "max_position_embeddings"),
        "dim": size(config, "hidden_size"),
        "depth": depth,
        "heads": size(config, "num_attention_heads"),
        "norm": {"kind": "rmsnorm", "eps": config.get("rms_norm_eps", 1e-6)},
        "positions": rope(config),
        "mixer": {
            "kind": "mla",
            "kv_rank": size(config, "kv_lora_rank"),
            "latent_query": config.get("q_lora_rank") is not None,
            "q_rank": config.get("q_lora_rank"),
            "nope_dim": size(config, "qk_nope_head_dim"),
            "rope_dim": size(config, "qk_rope_head_dim"),
            "value_dim": size(config, "v_head_dim"),
        },
        "feedforward": swiglu,
        "head": {"tied": bool(config.get("tie_word_embeddings", False))},
    }
    if first_dense < depth:
        described["feedforward"] = {
            "kind": "moe",
            "experts": size(config, "n_routed_experts"),
            "top_k": size(config, "num_experts_per_tok"),
            "shared": config.get("n_shared_experts") or 0,
            "hidden": size(config, "moe_intermediate_size"),
            "router": router,
        }
        if first_dense:
            described["layers"] = [{"repeat": first_dense, "feedforward": swiglu}, {"repeat": "rest"}]
    return described


def adapted(config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model with YaRN, whose scores are multiplied by mscale²: here the factor goes into its queries."""
    said = rope_settings(config)
    if said["rope_type"] != "yarn" or not said.get("mscale_all_dim"):
        return tensors
    factor = yarn_magnitude(said["factor"], said["mscale_all_dim"]) ** 2
    queries = (".q_proj.weight", ".q_b_proj.weight")
    return {name: factor * tensor.float() if name.endswith(queries) else tensor for name, tensor in tensors.items()}


def rules(model: Decoder) -> list[Rule]:
    """Where each tensor of the model stands in a DeepSeek-V3."""
    depth, tied = model.recipe.depth, model.recipe.head.tied
    ahead = model.recipe.objective.depth if isinstance(model.recipe.objective, MtpConfig) else 0
    modules = [(f"objective.modules_ahead.{k}", f"model.layers.{depth + k}") for k in range(ahead)]
    embeddings = tuple(f"{theirs}.embed_tokens.weight" for _, theirs in modules)
    heads = tuple(f"{theirs}.shared_head.head.weight" for _, theirs in modules)
    found = embedding_rules(model, write_head=True, head_copies=(*embeddings, *heads) if tied else heads)
    if not tied:
        found[0] = same("embedding.weight", "model.embed_tokens.weight", copies=embeddings, write_copies=True)
    for number in range(depth):
        found += layer_rules(model.layers[number], f"layers.{number}", f"model.layers.{number}")
    for number, (ours, theirs) in enumerate(modules):
        module: Any = model.objective.modules_ahead[number]
        found += layer_rules(module.layer, f"{ours}.layer", theirs)
        pairs = {"embedding_norm": "enorm", "hidden_norm": "hnorm", "norm": "shared_head.norm"}
        found += [same(f"{ours}.{mine}.weight", f"{theirs}.{yours}.weight") for mine, yours in pairs.items()]
        dim = model.recipe.dim
        columns = [*range(dim, 2 * dim), *range(dim)]
        found.append(reordered(f"{ours}.join.weight", f"{theirs}.eh_proj.weight", columns, dim=1))
    return found


def layer_rules(layer: Any, ours: str, theirs: str) -> list[Rule]:
    """Where each tensor of one layer stands."""
    mixer: Mla = layer.mixer
    query = [
        *(
            head * (mixer.nope + mixer.rope) + place
            for head in range(mixer.heads)
            for place in _paired(mixer.nope, mixer.rope)
        )
    ]
    last = "q_proj" if mixer.q_down is None else "q_b_proj"
    attention = f"{theirs}.self_attn"
    found = [
        *norm_rules(ours, theirs),
        reordered(f"{ours}.mixer.q_up.weight", f"{attention}.{last}.weight", query),
        reordered(
            f"{ours}.mixer.kv_down.weight",
            f"{attention}.kv_a_proj_with_mqa.weight",
            _paired(mixer.rank, mixer.rope),
        ),
        same(f"{ours}.mixer.kv_norm.weight", f"{attention}.kv_a_layernorm.weight"),
        same(f"{ours}.mixer.kv_up.weight", f"{attention}.kv_b_proj.weight"),
        same(f"{ours}.mixer.out.weight", f"{attention}.o_proj.weight"),
    ]
    if mixer.q_down is not None:
        found.append(same(f"{ours}.mixer.q_down.weight", f"{attention}.q_a_proj.weight"))
        found.append(same(f"{ours}.mixer.q_norm.weight", f"{attention}.q_a_layernorm.weight"))
    feedforward = layer.feedforward
    if not isinstance(feedforward, MixtureOfExperts):
        return found + swiglu_rules(f"{ours}.feedforward", f"{theirs}.mlp", feedforward.down.in_features)
    return found + _expert_rules(feedforward, f"{ours}.feedforward", f"{theirs}.mlp")


def _expert_rules(moe: MixtureOfExperts, ours: str, theirs: str) -> list[Rule]:
    experts: Experts = moe.experts
    names = [f"{theirs}.experts.{number}" for number in range(len(experts.down))]
    found = [
        same(f"{ours}.router.weight", f"{theirs}.gate.weight"),
        per_expert(
            f"{ours}.experts.gate_up",
            [(f"{name}.gate_proj.weight", f"{name}.up_proj.weight") for name in names],
        ),
        per_expert(f"{ours}.experts.down", [(f"{name}.down_proj.weight",) for name in names]),
    ]
    if "bias" in dict(moe.router.named_buffers()):
        found.append(same(f"{ours}.router.bias", f"{theirs}.gate.e_score_correction_bias"))
    if moe.shared is not None:
        found += swiglu_rules(f"{ours}.shared", f"{theirs}.shared_experts", moe.shared.down.in_features)
    return found


def _paired(fixed: int, rotated: int) -> list[int]:
    """The order in which rows with `rotated` numbers after `fixed` ones are published: each pair side by side."""
    half = rotated // 2
    return [*range(fixed), *(fixed + i + offset for i in range(half) for offset in (0, half))]


def _latent(model: Decoder, number: int) -> Mla:
    mixer: Any = model.layers[number].mixer
    assert isinstance(mixer, Mla)
    return mixer
