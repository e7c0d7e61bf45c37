"""Reading a Hugging Face config.json: declared keys are validated, keys without an equivalent in Litmus are refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from litmus.data.json_files import Declared, checked
from litmus.errors import BadInput, shown

Config = Mapping[str, Any]

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Positive = Annotated[float, Field(gt=0)]

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (1,),
    "attn_logit_softcapping": (),
    "attn_output_gate": (False,),
    "clip_qkv": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "is_encoder_decoder": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "no_rope_layers": ([],),
    "parallel_attn": (False,),
    "pruned_heads": ({},),
    "qk_layernorm": (False,),
    "residual_multiplier": (1,),
    "use_parallel_residual": (False,),
    "use_sliding_window": (False,),
}
"""Keys that change what some published model computes, with their neutral values; null is neutral too."""


class ModelConfig(Declared):
    """Keys that config.json of every architecture may have."""

    vocab_size: Size
    tie_word_embeddings: bool | None = None
    layer_types: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_an_equivalent(cls, raw: Any) -> Any:
        if isinstance(raw, dict):
            for key, valid in NEUTRAL_VALUES.items():
                if (value := raw.get(key)) is not None and value not in valid:
                    neutral = " or ".join(map(repr, valid or (None,)))
                    raise ValueError(f"{key} = {shown(value)} has no equivalent in Litmus; valid: {neutral}")
            kinds = raw.get("layer_types")
            odd = [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else []
            if odd:
                raise ValueError(
                    f"layer_types holds {shown(odd[0])}, which has no equivalent in Litmus; valid: 'full_attention'"
                )
        return raw


class RotaryConfig(Declared):
    """RoPE as in rope_scaling (older) or rope_parameters (newer); the kind "default" is unscaled RoPE."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Positive | None = None
    partial_rotary_factor: float | None = None
    factor: Positive | None = None
    original_max_position_embeddings: Size | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    attention_factor: Positive | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: Literal[True] | None = None

    @property
    def kind(self) -> str:
        return self.rope_type or self.type or "default"

    def needed(self, key: str) -> Any:
        """The value of a key that this kind of RoPE needs."""
        if (value := getattr(self, key)) is None:
            raise BadInput(f"config.json: {key} is missing, which RoPE of type {self.kind!r} needs; give a number")
        return value


class RopeModelConfig(ModelConfig):
    """Keys of an architecture with RoPE, RMSNorm and SwiGLU."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    max_position_embeddings: Size
    hidden_act: Literal["silu"] = "silu"
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None

    def rotary(self) -> RotaryConfig:
        """The RoPE settings; the older key takes precedence over the newer one, as in transformers."""
        key = "rope_scaling" if self.rope_scaling else "rope_parameters"
        hf = getattr(self, key) or {}
        if by_layer := [name for name, inner in hf.items() if isinstance(inner, dict)]:
            raise BadInput(
                f"config.json: {key}.{by_layer[0][:60]} gives a kind of layer its own RoPE, which has no equivalent in "
                f"Litmus; one for all layers is valid"
            )
        return checked(RotaryConfig, hf, f"config.json: {key}")

    def positions(self) -> dict[str, Any]:
        """The recipe's positions; scaled variants of RoPE other than yarn and llama3 are refused by name."""
        hf = self.rotary()
        share = hf.partial_rotary_factor or self.partial_rotary_factor or 1.0
        if share != 1:
            raise BadInput(f"config.json: partial_rotary_factor = {share} has no equivalent in Litmus; 1.0 is valid")
        plain = {"kind": "rope", "theta": hf.rope_theta or self.rope_theta or 10_000.0}
        if hf.kind == "default":
            return plain
        if hf.kind not in ("llama3", "yarn"):
            raise BadInput(
                f"config.json: RoPE of type {shown(hf.kind)} has no equivalent in Litmus; 'default', 'llama3' and "
                f"'yarn' are valid"
            )
        context = hf.needed("original_max_position_embeddings")
        if hf.kind == "llama3":
            turns = {"low": hf.needed("low_freq_factor"), "high": hf.needed("high_freq_factor")}
            return {
                **plain,
                "scaling": {"kind": "llama3", "factor": hf.needed("factor"), "context": context, **turns},
            }
        turns = {"low": hf.beta_slow or 1.0, "high": hf.beta_fast or 32.0}
        factor = hf.factor or self.max_position_embeddings / context
        amplitude = hf.attention_factor or _amplitude(factor, hf.mscale, hf.mscale_all_dim)
        scaling = {"kind": "yarn", "factor": factor, "context": context, "amplitude": amplitude, **turns}
        return {**plain, "scaling": scaling}


def check_count(count: int, key: str, names: Collection[str]) -> int:
    """`count`, the number of parts that have tensors of their own; BadInput if the folder has fewer tensors."""
    if count > len(names):
        raise BadInput(
            f"config.json: {key} = {count}, and the folder holds {len(names)} tensors; they do not belong together"
        )
    return count


def rope_to_hf(positions: Any) -> dict[str, Any]:
    """The keys of config.json for the RoPE of a recipe."""
    scaling = positions.scaling
    if scaling is None:
        return {"rope_theta": positions.theta}
    low, high = ("low_freq_factor", "high_freq_factor") if scaling.kind == "llama3" else ("beta_slow", "beta_fast")
    hf = {"rope_type": scaling.kind, "factor": scaling.factor, low: scaling.low, high: scaling.high}
    if scaling.kind == "yarn":
        hf["attention_factor"] = scaling.amplitude
    hf["original_max_position_embeddings"] = scaling.context
    return {"rope_theta": positions.theta, "rope_scaling": hf}


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's attention scale for a context stretched by `factor`: 0.1 · scale · ln(factor) + 1."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _amplitude(factor: float, scale: float | None, of_scores: float | None) -> float:
    if scale and of_scores:
        return yarn_magnitude(factor, scale) / yarn_magnitude(factor, of_scores)
    return yarn_magnitude(factor)
