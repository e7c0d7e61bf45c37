"""Options of the commands that generate text: how tokens are drawn and how they are computed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from litmus.bounds import MAX_SEED

MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest continuation, in tokens.")]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 takes the likeliest token; 1 draws from the model as it is.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw from the k likeliest tokens only.")]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Draw from the likeliest tokens that make up this share.")
]
MinP = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Draw from tokens at least so many times as likely as the likeliest."),
]
TypicalP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Draw from the tokens of most typical surprise, up to this share.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(min=0, help="Divides the scores of tokens in the text so far; 1 is off.")
]
PresencePenalty = Annotated[float, typer.Option(help="Taken off tokens already generated; 0 is off.")]
FrequencyPenalty = Annotated[float, typer.Option(help="Taken off each time a token was generated; 0 is off.")]
NoRepeatNgram = Annotated[int | None, typer.Option(min=1, help="No sequence of so many tokens occurs twice.")]
MinNewTokens = Annotated[int, typer.Option(min=0, help="No end before so many tokens.")]
BadWord = Annotated[list[str] | None, typer.Option(help="A text that is never written; may be repeated.")]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(metavar="TOKEN=AMOUNT", help="Added to the logit of a token (its text or id); may be repeated."),
]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")]
StopToken = Annotated[
    list[str] | None, typer.Option(help="End at this token (its text or id) too, besides the end of a document.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same text.")]
Precision = Annotated[str | None, typer.Option(help="fp32 or bf16; as the run was saved (fp32) when not given.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Hold linear weights in 8 bits: faster for large models on a CPU.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the decode step: slow to start, then faster.")]
Special = Annotated[
    bool, typer.Option("--special", help="Read special tokens such as <|im_start|> out of the prompts, not their text.")
]
_DRAWN = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def as_the_model_asks(context: typer.Context, options: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Options with those that were not given as the model's generation_config.json asks.

    Where any of the options that draw tokens was given, none of these is taken from it.
    """

    def given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"

    drawn = any(given(name) for name in _DRAWN)
    taken = {name for name in asked if name in options and not given(name) and not (drawn and name in _DRAWN)}
    return {**options, **{name: asked[name] for name in taken}}
