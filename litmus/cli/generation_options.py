"""Options of the commands that generate text, declared from the fields of `Sampling` where they belong to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.bounds import MAX_SEED

Temperature = Annotated[
    float, typer.Option(min=0, help="Divide the logits by this; 0 is greedy, 1 the model's own distribution.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Keep the k most probable tokens.")]
TopP = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Keep the smallest set of most probable tokens with total probability top_p."),
]
MinP = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Keep tokens with probability of at least min_p times the top token's."),
]
TypicalP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Keep the most typical tokens, up to total probability typical_p.")
]
RepetitionPenalty = Annotated[
    float, typer.Option(min=0, help="Divide the scores of tokens in the context, prompt included, by this; 1 is off.")
]
PresencePenalty = Annotated[
    float, typer.Option(help="Subtract this from the scores of tokens generated so far; 0 is off.")
]
FrequencyPenalty = Annotated[
    float, typer.Option(help="Subtract this from a token's score for each time it was generated; 0 is off.")
]
NoRepeatNgram = Annotated[int | None, typer.Option(min=1, help="Never repeat a sequence of this many tokens.")]
MinNewTokens = Annotated[int, typer.Option(min=0, help="Forbid stop tokens until this many tokens are generated.")]
BadWord = Annotated[list[str] | None, typer.Option(help="Text that is never generated; may be repeated.")]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(metavar="TOKEN=AMOUNT", help="Add to the logit of a token (its text or id); may be repeated."),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of a continuation, in tokens.")]
Stop = Annotated[list[str] | None, typer.Option(help="Stop string; not included in the output. May be repeated.")]
StopToken = Annotated[
    list[str] | None, typer.Option(help="Stop token (its text or id), besides the end of a document; may be repeated.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same text.")]
Precision = Annotated[str | None, typer.Option(help="fp32 or bf16; the run's own (fp32) when not given.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Store linear weights in 8 bits: faster for large models on a CPU.")]
Int4 = Annotated[bool, typer.Option("--int4", help="Store them in 4 bits, as litmus quantize does: faster still.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the decode step: slow to start, then faster.")]
Special = Annotated[
    bool, typer.Option("--special", help="Read special tokens such as <|im_start|> in the prompts as tokens, not text.")
]
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def with_model_defaults(context: typer.Context, options: dict[str, Any], run: Path) -> dict[str, Any]:
    """Options with the defaults of an imported run's generation_config.json for those that were not given.

    If any sampling option was given, the sampling defaults are ignored as a whole.
    """
    from litmus.generation.generation_config import generation_defaults
    from litmus.training.run.loading import imported_facts

    imported = imported_facts(run)
    if imported is None or imported.generation_config is None:
        return options
    defaults = generation_defaults(imported.generation_config)
    own = any(given(context, name) for name in _SAMPLING)
    ignored = {name for name in defaults if name not in options or given(context, name) or (own and name in _SAMPLING)}
    return {**options, **{name: value for name, value in defaults.items() if name not in ignored}}
