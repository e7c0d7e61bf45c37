"""DeepSeek-V3: latent attention, dense first layers, then experts; modules of multi-token prediction after the last.

Two traps of the published format. Its rotated numbers stand in pairs (x_2i, x_2i+1) where Litmus has (x_i, x_i+w/2), so
the rows that make them are reordered. And its module ahead joins [embedding ; hidden], in Litmus [hidden ; embedding].
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field

from litmus.data.json_files import checked
from litmus.errors import BadInput
from litmus.interop.config import Config, Positive, RopeModelConfig, Size, at_most, written_rope, yarn_magnitude
from litmus.interop.fitting import common, need, part
from litmus.interop.folder import CONFIG
from litmus.interop.layout import Rule, per_expert, reordered, same
from litmus.interop.llama import embedding_rules, norm_rules, swiglu_rules
from litmus.interop.llama import renamed as renamed
from litmus.model import Decoder, Recipe
from litmus.nn import Experts, MixtureOfExperts, Mla, MlaConfig, MoeConfig
from litmus.nn.moe.routers import GroupedRouterConfig, SigmoidRouterConfig
from litmus.nn.objectives.mtp import MtpConfig

WIDTHS = ("heads", "kv_rank", "latent_query", "q_rank", "nope_dim", "rope_dim", "value_dim", "absorb")


def obstacles(recipe: Recipe, router: type[GroupedRouterConfig] = SigmoidRouterConfig) -> list[str]:
    """What keeps a recipe from being a DeepSeek-V3, or from the DeepSeek that has another router."""
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
        found += _expert_obstacles(experts[0], router)
    return found


def _expert_obstacles(moe: MoeConfig, valid: type[GroupedRouterConfig]) -> list[str]:
    found = part(moe, "feedforward", "moe", ("experts", "top_k", "shared", "hidden", "router"))
    found += need(moe.shared > 0, "feedforward.shared = 0", "set it to 1 or more")
    router = moe.router
    if not isinstance(router, valid):
        return [*found, f"feedforward.router is {router.kind!r} (set it to {valid.model_fields['kind'].default})"]
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


class LatentConfig(RopeModelConfig):
    """What is read of config.json of either DeepSeek; experts are described where some layer has them."""

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
        """The value of a key that layers of experts cannot do without."""
        if (value := getattr(self, key)) is None:
            raise BadInput(f"{CONFIG}: {key} is missing, which layers of experts need; give a whole number")
        return int(value)


class DeepseekV3Config(LatentConfig):
    """What is read of a DeepSeek-V3's config.json."""

    norm_topk_prob: Literal[True] = True
    scoring_func: Literal["sigmoid"] = "sigmoid"
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    rope_interleave: Literal[True] = True
    num_nextn_predict_layers: Annotated[int, Field(ge=0, le=1000)] | None = None


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a DeepSeek-V3's config.json and the names of its tensors describe."""
    said = checked(DeepseekV3Config, dict(config), CONFIG)
    router = {
        "kind": "sigmoid",
        "scale": said.routed_scaling_factor or 2.5,
        "groups": said.n_group or 1,
        "top_groups": said.topk_group or 1,
    }
    first_dense = 3 if said.first_k_dense_replace is None else said.first_k_dense_replace
    described = latent_recipe(said, names, router, first_dense=first_dense)
    promised, depth = said.num_nextn_predict_layers or 0, described["depth"]
    if promised and any(name.startswith(f"model.layers.{depth}.") for name in names):
        described["objective"] = {"kind": "mtp", "depth": promised}
    return described


def latent_recipe(
    said: LatentConfig, names: Collection[str], router: dict[str, Any], *, first_dense: int
) -> dict[str, Any]:
    """What the recipes of DeepSeek-V2 and V3 have in common; they differ in the router."""
    depth = at_most(said.num_hidden_layers, "num_hidden_layers", names)
    swiglu = {"kind": "swiglu", "hidden": said.intermediate_size}
    described: dict[str, Any] = {
        "vocab_size": said.vocab_size,
        "context": said.max_position_embeddings,
        "dim": said.hidden_size,
        "depth": depth,
        "heads": said.num_attention_heads,
        "norm": {"kind": "rmsnorm", "eps": said.rms_norm_eps},
        "positions": said.positions(),
        "mixer": {
            "kind": "mla",
            "kv_rank": said.kv_lora_rank,
            "latent_query": said.q_lora_rank is not None,
            "q_rank": said.q_lora_rank,
            "nope_dim": said.qk_nope_head_dim,
            "rope_dim": said.qk_rope_head_dim,
            "value_dim": said.v_head_dim,
        },
        "feedforward": swiglu,
        "head": {"tied": bool(said.tie_word_embeddings)},
    }
    if first_dense < depth:
        described["feedforward"] = {
            "kind": "moe",
            "experts": at_most(said.needed("n_routed_experts"), "n_routed_experts", names),
            "top_k": said.needed("num_experts_per_tok"),
            "shared": said.n_shared_experts or 0,
            "hidden": said.needed("moe_intermediate_size"),
            "router": router,
        }
        if first_dense:
            described["layers"] = [{"repeat": first_dense, "feedforward": swiglu}, {"repeat": "rest"}]
    return described


def factors(config: Config) -> dict[str, float]:
    """By the end of a tensor's name, the factor of config.json that our tensor has in it and theirs has not.

    With YaRN, DeepSeek's scores are multiplied by mscale²; here that goes into the queries.
    """
    said = checked(LatentConfig, dict(config), CONFIG).rotary()
    if said.kind != "yarn" or not said.mscale_all_dim:
        return {}
    factor = yarn_magnitude(said.needed("factor"), said.mscale_all_dim) ** 2
    return {".q_proj.weight": factor, ".q_b_proj.weight": factor}


def rules(model: Decoder) -> list[Rule]:
    """Where each tensor of the model stands in a DeepSeek-V3."""
    depth, tied = model.recipe.depth, model.recipe.head.tied
    ahead = model.recipe.objective.depth if isinstance(model.recipe.objective, MtpConfig) else 0
    modules = [(f"objective.mtp_layers.{k}", f"model.layers.{depth + k}") for k in range(ahead)]
    embeddings = tuple(f"{theirs}.embed_tokens.weight" for _, theirs in modules)
    heads = tuple(f"{theirs}.shared_head.head.weight" for _, theirs in modules)
    found = embedding_rules(model, write_head=True, head_copies=(*embeddings, *heads) if tied else heads)
    if not tied:
        found[0] = same("embedding.weight", "model.embed_tokens.weight", copies=embeddings, write_copies=True)
    for number in range(depth):
        found += layer_rules(model.layers[number], f"layers.{number}", f"model.layers.{number}")
    for number, (ours, theirs) in enumerate(modules):
        module: Any = model.objective.mtp_layers[number]
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
