"""DeepSeek-V2 and V3: latent attention, dense layers, then experts; MTP modules after the last layer.

The published format differs in two places. RoPE rotates the pairs (x_2i, x_2i+1), in Litmus (x_i, x_i+w/2), so the rows
of the rotated dimensions are reordered. The MTP module concatenates [embedding ; hidden], Litmus [hidden ; embedding].
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from litmus.data.json_files import checked
from litmus.errors import BadInput
from litmus.interop.hf.adapter import HFAdapter, common_incompatibilities, part_incompatibilities, require
from litmus.interop.hf.config import Config, Positive, RopeModelConfig, Size, check_count, rope_to_hf, yarn_magnitude
from litmus.interop.hf.folder import CONFIG
from litmus.interop.hf.llama import embedding_mappings, norm_mappings, swiglu_mappings
from litmus.interop.hf.state_dict_mapping import TensorMapping, per_expert, reordered, same
from litmus.model import Decoder, Recipe
from litmus.nn import Experts, MixtureOfExperts, Mla, MlaConfig, MoeConfig
from litmus.nn.moe.routers import GroupedRouterConfig, SigmoidRouterConfig, SoftmaxV2RouterConfig
from litmus.nn.objectives.mtp import MtpConfig

WIDTHS = ("heads", "kv_rank", "latent_query", "q_rank", "nope_dim", "rope_dim", "value_dim", "absorb")


def _expert_incompatibilities(moe: MoeConfig, valid: type[GroupedRouterConfig]) -> list[str]:
    found = part_incompatibilities(moe, "feedforward", "moe", ("experts", "top_k", "shared", "hidden", "router"))
    found += require(moe.shared > 0, "feedforward.shared = 0", "set it to 1 or more")
    router = moe.router
    if not isinstance(router, valid):
        return [*found, f"feedforward.router is {router.kind!r} (set it to {valid.model_fields['kind'].default})"]
    alone = f"feedforward.router.groups = {router.groups} of one expert each"
    return found + require(router.groups < moe.experts, alone, "let a group hold 2 experts or more")


class LatentConfig(RopeModelConfig):
    """The keys of config.json that both versions have; those of experts are needed where a layer has them."""

    kv_lora_rank: Size
    q_lora_rank: Size | None = None
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size
    attention_bias: Literal[False] | None = None
    mlp_bias: Literal[False] | None = None
    moe_layer_freq: Literal[1] = 1
    first_k_dense_replace: Annotated[int, Field(ge=0)] | None = None
    n_routed_experts: Size | None = None
    num_experts_per_tok: Size | None = None
    n_shared_experts: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    moe_intermediate_size: Size | None = None
    n_group: Size | None = None
    topk_group: Size | None = None
    routed_scaling_factor: Positive | None = None

    def needed(self, key: str) -> int:
        """The value of a key that layers of experts need."""
        if (value := getattr(self, key)) is None:
            raise BadInput(f"{CONFIG}: {key} is missing, which layers of experts need; give a whole number")
        return int(value)


class DeepseekV3Config(LatentConfig):
    """The keys of a DeepSeek-V3's config.json."""

    norm_topk_prob: Literal[True] = True
    scoring_func: Literal["sigmoid"] = "sigmoid"
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    rope_interleave: Literal[True] = True
    num_nextn_predict_layers: Annotated[int, Field(ge=0, le=1000)] | None = None


class DeepseekV3Adapter(HFAdapter):
    """DeepseekV3ForCausalLM."""

    router: type[GroupedRouterConfig] = SigmoidRouterConfig

    def incompatibilities(self, recipe: Recipe) -> list[str]:
        layers = recipe.layer_parts()
        mixers = [parts["mixer"] for parts in layers]
        feedforwards = [parts["feedforward"] for parts in layers]
        experts = [found for found in feedforwards if found.kind == "moe"]
        dense = feedforwards[: len(feedforwards) - len(experts)]
        found = [
            *common_incompatibilities(recipe, norm="rmsnorm", positions="rope"),
            *require(all(mixer == mixers[0] for mixer in mixers), "mixers differ between layers", "make them alike"),
            *part_incompatibilities(mixers[0], "mixer", "mla", WIDTHS),
            *require(
                all(dense_one == dense[0] for dense_one in dense) and all(moe == experts[0] for moe in experts),
                "feedforwards are not some dense layers followed by layers of experts",
                "put dense layers first, each sort alike",
            ),
        ]
        if isinstance(mixers[0], MlaConfig):
            found += require(mixers[0].rope_dim != 0, "mixer.rope_dim = 0", "give an even width")
        if dense:
            found += part_incompatibilities(dense[0], "feedforward", "swiglu", ("hidden",))
        if experts and isinstance(experts[0], MoeConfig):
            found += _expert_incompatibilities(experts[0], self.router)
        return found

    def hf_config(self, model: Decoder) -> dict[str, Any]:
        recipe, mixer = model.recipe, _latent(model, 0)
        feedforwards: list[Any] = [layer.feedforward for layer in model.layers]
        dense = [found for found in feedforwards if not isinstance(found, MixtureOfExperts)]
        mtp_depth = recipe.objective.depth if isinstance(recipe.objective, MtpConfig) else 0
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
            **rope_to_hf(recipe.positions),
            "rope_interleave": True,
            "attention_bias": False,
            "tie_word_embeddings": recipe.head.tied,
            "first_k_dense_replace": recipe.depth + mtp_depth if all_dense else len(dense),
            "moe_layer_freq": 1,
            "num_nextn_predict_layers": mtp_depth,
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

    def to_recipe(self, config: Config, names: Collection[str]) -> dict[str, Any]:
        hf = checked(DeepseekV3Config, dict(config), CONFIG)
        router = {
            "kind": "sigmoid",
            "scale": hf.routed_scaling_factor or 2.5,
            "groups": hf.n_group or 1,
            "top_groups": hf.topk_group or 1,
        }
        first_dense = 3 if hf.first_k_dense_replace is None else hf.first_k_dense_replace
        described = _latent_recipe(hf, names, router, first_dense=first_dense)
        mtp_depth, depth = hf.num_nextn_predict_layers or 0, described["depth"]
        if mtp_depth and any(name.startswith(f"model.layers.{depth}.") for name in names):
            described["objective"] = {"kind": "mtp", "depth": mtp_depth}
        return described

    def state_dict_mapping(self, model: Decoder) -> list[TensorMapping]:
        depth, tied = model.recipe.depth, model.recipe.head.tied
        mtp_depth = model.recipe.objective.depth if isinstance(model.recipe.objective, MtpConfig) else 0
        modules = [(f"objective.mtp_layers.{k}", f"model.layers.{depth + k}") for k in range(mtp_depth)]
        embeddings = tuple(f"{theirs}.embed_tokens.weight" for _, theirs in modules)
        heads = tuple(f"{theirs}.shared_head.head.weight" for _, theirs in modules)
        found = embedding_mappings(model, write_head=True, head_copies=(*embeddings, *heads) if tied else heads)
        if not tied:
            found[0] = same("embedding.weight", "model.embed_tokens.weight", copies=embeddings, write_copies=True)
        for number in range(depth):
            found += _layer_mappings(model.layers[number], f"layers.{number}", f"model.layers.{number}")
        for number, (ours, theirs) in enumerate(modules):
            module: Any = model.objective.mtp_layers[number]
            found += _layer_mappings(module.layer, f"{ours}.layer", theirs)
            pairs = {"embedding_norm": "enorm", "hidden_norm": "hnorm", "norm": "shared_head.norm"}
            found += [same(f"{ours}.{mine}.weight", f"{theirs}.{yours}.weight") for mine, yours in pairs.items()]
            dim = model.recipe.dim
            columns = [*range(dim, 2 * dim), *range(dim)]
            found.append(reordered(f"{ours}.join.weight", f"{theirs}.eh_proj.weight", columns, dim=1))
        return found

    def tensor_scales(self, config: Config) -> dict[str, float]:
        """With YaRN, DeepSeek multiplies the scores by mscale²; here the query's weights contain that factor."""
        hf = checked(LatentConfig, dict(config), CONFIG).rotary()
        if hf.kind != "yarn" or not hf.mscale_all_dim:
            return {}
        factor = yarn_magnitude(hf.needed("factor"), hf.mscale_all_dim) ** 2
        return {".q_proj.weight": factor, ".q_b_proj.weight": factor}


class DeepseekV2Config(LatentConfig):
    """The keys of a DeepSeek-V2's config.json."""

    norm_topk_prob: Literal[False] = False
    scoring_func: Literal["softmax"] = "softmax"
    topk_method: Literal["greedy", "group_limited_greedy"] = "greedy"


class DeepseekV2Adapter(DeepseekV3Adapter):
    """DeepseekV2ForCausalLM: DeepSeek-V3 with a router without bias, whose gates are plain probabilities.

    Only written for a model that was imported as one.
    """

    router = SoftmaxV2RouterConfig

    def hf_config(self, model: Decoder) -> dict[str, Any]:
        config = {**super().hf_config(model), "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2"}
        if "n_group" not in config:
            return config
        method = "group_limited_greedy" if config["n_group"] > 1 else "greedy"
        return {**config, "topk_method": method, "scoring_func": "softmax", "norm_topk_prob": False}

    def to_recipe(self, config: Config, names: Collection[str]) -> dict[str, Any]:
        hf = checked(DeepseekV2Config, dict(config), CONFIG)
        grouped = hf.topk_method == "group_limited_greedy"
        router = {
            "kind": "softmax_v2",
            "scale": hf.routed_scaling_factor or 1.0,
            "groups": (hf.n_group or 1) if grouped else 1,
            "top_groups": (hf.topk_group or 1) if grouped else 1,
        }
        return _latent_recipe(hf, names, router, first_dense=hf.first_k_dense_replace or 0)


def _latent_recipe(
    hf: LatentConfig, names: Collection[str], router: dict[str, Any], *, first_dense: int
) -> dict[str, Any]:
    """The recipe of a DeepSeek-V2 or V3, which differ in the router."""
    depth = check_count(hf.num_hidden_layers, "num_hidden_layers", names)
    swiglu = {"kind": "swiglu", "hidden": hf.intermediate_size}
    described: dict[str, Any] = {
        "vocab_size": hf.vocab_size,
        "context": hf.max_position_embeddings,
        "dim": hf.hidden_size,
        "depth": depth,
        "heads": hf.num_attention_heads,
        "norm": {"kind": "rmsnorm", "eps": hf.rms_norm_eps},
        "positions": hf.positions(),
        "mixer": {
            "kind": "mla",
            "kv_rank": hf.kv_lora_rank,
            "latent_query": hf.q_lora_rank is not None,
            "q_rank": hf.q_lora_rank,
            "nope_dim": hf.qk_nope_head_dim,
            "rope_dim": hf.qk_rope_head_dim,
            "value_dim": hf.v_head_dim,
        },
        "feedforward": swiglu,
        "head": {"tied": bool(hf.tie_word_embeddings)},
    }
    if first_dense < depth:
        described["feedforward"] = {
            "kind": "moe",
            "experts": check_count(hf.needed("n_routed_experts"), "n_routed_experts", names),
            "top_k": hf.needed("num_experts_per_tok"),
            "shared": hf.n_shared_experts or 0,
            "hidden": hf.needed("moe_intermediate_size"),
            "router": router,
        }
        if first_dense:
            described["layers"] = [{"repeat": first_dense, "feedforward": swiglu}, {"repeat": "rest"}]
    return described


def _layer_mappings(layer: Any, ours: str, theirs: str) -> list[TensorMapping]:
    """The mappings of one layer."""
    mixer: Mla = layer.mixer
    query = [
        *(
            head * (mixer.nope + mixer.rope) + row
            for head in range(mixer.heads)
            for row in _paired(mixer.nope, mixer.rope)
        )
    ]
    last = "q_proj" if mixer.q_down is None else "q_b_proj"
    attention = f"{theirs}.self_attn"
    found = [
        *norm_mappings(ours, theirs),
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
        return found + swiglu_mappings(f"{ours}.feedforward", f"{theirs}.mlp", feedforward.down.in_features)
    return found + _expert_mappings(feedforward, f"{ours}.feedforward", f"{theirs}.mlp")


def _expert_mappings(moe: MixtureOfExperts, ours: str, theirs: str) -> list[TensorMapping]:
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
        found += swiglu_mappings(f"{ours}.shared", f"{theirs}.shared_experts", moe.shared.down.in_features)
    return found


def _paired(fixed: int, rotated: int) -> list[int]:
    """The published order of rows: `fixed` ones, then `rotated` ones in adjacent pairs."""
    half = rotated // 2
    return [*range(fixed), *(fixed + i + offset for i in range(half) for offset in (0, half))]


def _latent(model: Decoder, number: int) -> Mla:
    mixer: Any = model.layers[number].mixer
    assert isinstance(mixer, Mla)
    return mixer
