"""Which options of `litmus generate` mean nothing together with --beams, --contrastive or --draft."""

from __future__ import annotations

import typer

from litmus.errors import BadInput

_BATCH = ("overflow", "rows", "compile")
_DRAW = (
    *("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("no_repeat_ngram", "min_new_tokens", "bad_word", "logit_bias", "seed"),
)
_BEAMS = ("length_penalty", "early_stopping")
WITHOUT_EFFECT = {
    "beams": ("contrastive", "draft", "ahead", "top_k", "logprobs", *_DRAW, *_BATCH),
    "contrastive": ("draft", "ahead", "n", *_BEAMS, *_DRAW, *_BATCH),
    "draft": (*_BEAMS, *_BATCH),
    None: (*_BEAMS, "ahead"),
}
"""What has no effect together with each option that chooses a strategy; None: with none of them."""


def check_ways(context: typer.Context) -> None:
    """BadInput for an option that was given and would do nothing."""

    def given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"

    way = next((name for name in WITHOUT_EFFECT if name and given(name)), None)
    for name in WITHOUT_EFFECT[way]:
        if given(name):
            option = "--" + name.replace("_", "-")
            if way is None:
                needed = "--draft" if name == "ahead" else "--beams"
                raise BadInput(f"{option} does nothing without {needed}; add that, or leave it out")
            raise BadInput(f"{option} has no effect together with --{way}; leave one of them out")
