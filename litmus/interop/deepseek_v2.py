"""DeepSeek-V2, which is read and not written: DeepSeek-V3 but for its router, which has no bias and plain gates."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from litmus.interop.config import Config, only
from litmus.interop.deepseek import adapted as adapted
from litmus.interop.deepseek import config as config
from litmus.interop.deepseek import latent_recipe
from litmus.interop.deepseek import obstacles as obstacles
from litmus.interop.deepseek import renamed as renamed
from litmus.interop.deepseek import rules as rules


def recipe(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The recipe that a DeepSeek-V2's config.json describes."""
    only(config, "norm_topk_prob", False)
    only(config, "scoring_func", "softmax")
    only(config, "topk_method", "greedy", "group_limited_greedy")
    only(config, "mlp_bias", False)
    grouped = config.get("topk_method") == "group_limited_greedy"
    router = {
        "kind": "softmax_v2",
        "scale": config.get("routed_scaling_factor", 1.0),
        "groups": config.get("n_group") if grouped else 1,
        "top_groups": config.get("topk_group") if grouped else 1,
    }
    return latent_recipe(config, router, first_dense=config.get("first_k_dense_replace", 0))
