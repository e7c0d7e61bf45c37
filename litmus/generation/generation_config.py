"""Default options of an imported model: its generation_config.json."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from litmus.data.json_files import Declared, checked

FILE_NAME = "generation_config.json"
TRANSFORMERS_TOP_K = 50
"""The default of transformers for a config that samples without top_k."""
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
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
"""Unsupported keys that change the generated text, with their neutral values; null is neutral too."""


class GenerationConfig(Declared):
    """The supported keys of generation_config.json."""

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
    """The options of `generate` in a generation_config.json: greedy unless do_sample is true."""
    config = checked(GenerationConfig, raw, origin)
    options: dict[str, Any] = {"temperature": 0.0}
    if config.do_sample:
        options = {
            "temperature": 1.0 if config.temperature is None else config.temperature,
            "top_k": (TRANSFORMERS_TOP_K if config.top_k is None else config.top_k) or None,
            "top_p": config.top_p,
            "min_p": config.min_p,
            "typical_p": config.typical_p,
        }
    options |= {
        "repetition_penalty": config.repetition_penalty,
        "no_repeat_ngram": config.no_repeat_ngram_size or None,
        "min_new_tokens": config.min_new_tokens,
        "max_new_tokens": config.max_new_tokens,
    }
    return {name: value for name, value in options.items() if value is not None}


def unsupported_keys(raw: dict[str, Any]) -> list[str]:
    """The keys of a generation_config.json that change the text and are only kept for an export."""
    return [key for key, valid in NEUTRAL_VALUES.items() if raw.get(key) is not None and raw[key] not in valid]
