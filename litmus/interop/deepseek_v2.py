"""DeepSeek-V2, written only where it was read: DeepSeek-V3 but for its router, which has no bias and plain gates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from litmus.data.json_files import checked
from litmus.interop import deepseek
from litmus.interop.config import Config
from litmus.interop.deepseek import LatentConfig, latent_recipe
from litmus.interop.deepseek import factors as factors
from litmus.interop.deepseek import renamed as renamed
from litmus.interop.deepseek import rules as rules
from litmus.interop.folder import CONFIG
from litmus.model import Decoder, Recipe
from litmus.nn.moe.routers import SoftmaxV2RouterConfig


class DeepseekV2Config(LatentConfig):
    """What is read of config.json."""

    norm_topk_prob: Literal[False] = False
    scoring_func: Literal["softmax"] = "softmax"
    topk_method: Literal["greedy", "group_limited_greedy"] = "greedy"


def obstacles(recipe: Recipe) -> list[str]:
    """What keeps a recipe from being a DeepSeek-V2."""
    return deepseek.obstacles(recipe, SoftmaxV2RouterConfig)


def config(model: Decoder) -> dict[str, Any]:
    """config.json of a model that has no obstacles."""
    written = {**deepseek.config(model), "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2"}
    if "n_group" not in written:
        return written
    method = "group_limited_greedy" if written["n_group"] > 1 else "greedy"
    return {**written, "topk_method": method, "scoring_func": "softmax", "norm_topk_prob": False}


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a DeepSeek-V2's config.json describes."""
    said = checked(DeepseekV2Config, dict(config), CONFIG)
    grouped = said.topk_method == "group_limited_greedy"
    router = {
        "kind": "softmax_v2",
        "scale": said.routed_scaling_factor or 1.0,
        "groups": (said.n_group or 1) if grouped else 1,
        "top_groups": (said.topk_group or 1) if grouped else 1,
    }
    return latent_recipe(said, names, router, first_dense=said.first_k_dense_replace or 0)
