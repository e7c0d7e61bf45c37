"""How text is generated where nobody says otherwise: as a model's generation_config.json asks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from litmus.data.json_files import Declared, checked

FILE_NAME = "generation_config.json"
TOP_K = 50
"""What transformers takes where a config that samples names no top_k."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "penalty_alpha": (),
    "guidance_scale": (1,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "bad_words_ids": ([],),
    "sequence_bias": ({},),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "constraints": ([],),
    "force_words_ids": ([],),
    "stop_strings": ([],),
    "watermarking_config": (),
}
"""Keys that choose other texts and are not followed, with the values that change nothing; so does null."""


class GenerationConfig(Declared):
    """generation_config.json, as far as it is followed."""

    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] | None = None
    min_new_tokens: Annotated[int, Field(ge=0)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


def generation_defaults(raw: dict[str, Any], origin: str = FILE_NAME) -> dict[str, Any]:
    """The options of `generate` that a generation_config.json asks for: greedy unless it says do_sample."""
    said = checked(GenerationConfig, raw, origin)
    options: dict[str, Any] = {"temperature": 0.0}
    if said.do_sample:
        options = {
            "temperature": 1.0 if said.temperature is None else said.temperature,
            "top_k": (TOP_K if said.top_k is None else said.top_k) or None,
            "top_p": said.top_p,
            "min_p": said.min_p,
            "typical_p": said.typical_p,
        }
    options |= {
        "repetition_penalty": said.repetition_penalty,
        "no_repeat_ngram": said.no_repeat_ngram_size or None,
        "min_new_tokens": said.min_new_tokens,
        "max_new_tokens": said.max_new_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


def not_followed(raw: dict[str, Any]) -> list[str]:
    """The keys of a generation_config.json that choose other texts and are kept for an export only."""
    return [key for key, valid in NEUTRAL.items() if raw.get(key) is not None and raw[key] not in valid]
