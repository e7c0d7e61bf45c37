"""`litmus generate`: continue prompts with a trained run."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from litmus.catalog import check_run
from litmus.cli import generation_options as generation
from litmus.cli.options import Best, Device, TokenizerOfSaved, TrustPlugin
from litmus.cli.output import log
from litmus.errors import BadInput

if TYPE_CHECKING:
    from litmus.generation import TextChunk

_BATCH = ("overflow", "rows", "compile")
_SAMPLING = (
    *("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("no_repeat_ngram", "min_new_tokens", "bad_word", "logit_bias", "seed"),
)
_BEAMS = ("length_penalty", "early_stopping")
CONFLICTS = {
    "beams": ("contrastive", "draft", "draft_tokens", "top_k", "logprobs", *_SAMPLING, *_BATCH),
    "contrastive": ("draft", "draft_tokens", "n", *_BEAMS, *_SAMPLING, *_BATCH),
    "draft": (*_BEAMS, *_BATCH),
    None: (*_BEAMS, "draft_tokens"),
}
"""The options that have no effect together with each option that chooses a decoding strategy; None: with none."""


def generate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard, or a saved model.")],
    prompt: Annotated[str | None, typer.Option(help="The text to continue; a new document when not given.")] = None,
    file: Annotated[Path | None, typer.Option(help="Continue each line of this file.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Continue the text of standard input.")] = False,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of continuations of each prompt.")] = 1,
    max_new_tokens: generation.MaxNewTokens = 200,
    temperature: generation.Temperature = 0.8,
    top_k: generation.TopK = None,
    top_p: generation.TopP = None,
    min_p: generation.MinP = None,
    typical_p: generation.TypicalP = None,
    repetition_penalty: generation.RepetitionPenalty = 1.0,
    presence_penalty: generation.PresencePenalty = 0.0,
    frequency_penalty: generation.FrequencyPenalty = 0.0,
    no_repeat_ngram: generation.NoRepeatNgram = None,
    min_new_tokens: generation.MinNewTokens = 0,
    bad_word: generation.BadWord = None,
    logit_bias: generation.LogitBias = None,
    stop: generation.Stop = None,
    stop_token: generation.StopToken = None,
    seed: generation.Seed = 0,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Beam search with this many beams; prints the --n best texts.")
    ] = None,
    length_penalty: Annotated[
        float, typer.Option(help="Beam score = log p / length ** length_penalty; above 0 favours long texts.")
    ] = 1.0,
    early_stopping: Annotated[
        bool,
        typer.Option("--early-stopping", help="End the search when there are as many finished texts as beams."),
    ] = False,
    contrastive: Annotated[
        float | None,
        typer.Option(metavar="ALPHA", help="Contrastive search with this alpha over --top-k candidates (default 4)."),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(help="Speculative decoding: a smaller run that drafts tokens, or self for the MTP modules."),
    ] = None,
    draft_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a smaller run drafts at a time (default 4).")
    ] = None,
    ahead: Annotated[int | None, typer.Option("--ahead", min=1, hidden=True)] = None,
    overflow: Annotated[
        str, typer.Option(help="At the end of the context: stop, or slide: continue from its last half.")
    ] = "stop",
    rows: Annotated[int | None, typer.Option(min=1, help="Prompts decoded at a time (maximum batch size).")] = None,
    precision: generation.Precision = None,
    int8: generation.Int8 = False,
    int4: generation.Int4 = False,
    compile: generation.Compile = False,
    device: Device = "auto",
    best: Best = False,
    tokenizer_name: TokenizerOfSaved = None,
    trust_plugin: TrustPlugin = False,
    special: generation.Special = False,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="With --json: tokens and log-probabilities.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per continuation.")] = False,
) -> None:
    """Continue prompts with a trained run; the prompts themselves are not printed.

    Continuation i of prompt p samples with seed + p * n + i. Ctrl-C prints the text so far and exits with 130. Options
    that are not given have the values of an imported model's generation_config.json (greedy unless it says do_sample).

    Examples:

      litmus generate runs/standard --prompt "def main("

      litmus generate runs/standard --n 3 --temperature 1 --top-p 0.95 --seed 7

      litmus generate runs/standard --file prompts.txt --json --logprobs > continued.jsonl

      git diff | litmus generate runs/standard --stdin --stop "diff --git" --no-repeat-ngram 8

      litmus generate runs/standard --prompt "def main(" --beams 4 --n 2 --length-penalty 0.8

      litmus generate runs/standard --prompt "def main(" --contrastive 0.6 --top-k 5

      litmus generate runs/deepseek --prompt "def main(" --draft self
    """
    _check_conflicts(context)
    check_run(run)

    from functools import partial

    from litmus.cli.prompts import biases_named, check_amount, read_prompts, token_named, typed
    from litmus.generation.decode_weights import prepare
    from litmus.generation.generate import Decode, stream, stream_one_by_one
    from litmus.generation.search.beam import best_texts
    from litmus.generation.search.contrastive import contrastive_search
    from litmus.generation.speculative.decode import AcceptanceStats, speculate
    from litmus.generation.speculative.drafts import load_draft
    from litmus.model.plugins import plugin_faults
    from litmus.runtime.device import pick_device
    from litmus.training.run.loading import load_with_tokenizer, needs_tokenizer

    texts = read_prompts(prompt, file, sys.stdin.buffer if stdin else None)
    check_amount(n * len(texts), 1)
    prompts = [text for text in texts for _ in range(n)]
    where = pick_device(device)
    model, tokenizer = load_with_tokenizer(run, tokenizer=tokenizer_name, best=best, trust_plugin=trust_plugin, log=log)
    if tokenizer is None:
        raise needs_tokenizer(run)
    room = max_new_tokens if overflow == "slide" else min(max_new_tokens, model.recipe.context)
    check_amount(len(prompts), room)
    given: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "no_repeat_ngram": no_repeat_ngram,
        "min_new_tokens": min_new_tokens,
        "bad_words": [typed(word, "--bad-word") for word in bad_word or ()],
        "logit_bias": biases_named(logit_bias or (), tokenizer),
        "stop": [*tokenizer.stop_ids, *(token_named(name, tokenizer, "stop token") for name in stop_token or ())],
        "stop_strings": [typed(text, "--stop") for text in stop or ()],
        "seed": seed,
        "logprobs": logprobs,
        "allow_special": special,
    }
    options = generation.with_model_defaults(context, given, run)
    weights: dict[str, Any] = {"precision": precision, "int8": int8, "int4": int4}
    model, stats = model.to(where), AcceptanceStats()
    if beams is None and contrastive is None and draft is None:
        engine: dict[str, Any] = {"overflow": overflow, "max_batch_size": rows, "compile": compile}
        chunks = stream(model, prompts, tokenizer=tokenizer, **weights, **engine, **options)
    else:
        model, each = prepare(model, **weights), 1
        decode: Decode
        if beams is not None:
            search: dict[str, Any] = {
                "beams": beams,
                "length_penalty": length_penalty,
                "early_stopping": early_stopping,
            }
            decode, each = partial(best_texts, model, n=n, **search), n
        elif contrastive is not None:
            decode = partial(contrastive_search, model, alpha=contrastive, candidates=top_k or 4)
        else:
            number = ahead if draft_tokens is None else draft_tokens
            drafting = load_draft(draft or "", model, tokenizer, number, trust_plugin=trust_plugin)
            decode = partial(speculate, model, draft=drafting, stats=stats)
        chunks = stream_one_by_one(decode, prompts[::each], tokenizer=tokenizer, n=each, **options)
    printer = Printer(prompts, sys.stdout, as_json=json, logprobs=logprobs)
    interrupted = None
    try:
        with plugin_faults(model.recipe, "decoding"):
            for chunk in chunks:
                printer.add(chunk)
    except KeyboardInterrupt as error:
        interrupted = error
    printer.close()
    if draft is not None:
        log(str(stats))
    if interrupted is not None:
        raise interrupted


def _check_conflicts(context: typer.Context) -> None:
    """BadInput for an option that was given and would have no effect."""

    def given(name: str) -> bool:
        return generation.given(context, name) or (name == "draft_tokens" and generation.given(context, "ahead"))

    strategy = next((name for name in CONFLICTS if name and given(name)), None)
    for name in CONFLICTS[strategy]:
        if given(name):
            option = "--" + name.replace("_", "-")
            if strategy is None:
                needed = "--draft" if name == "draft_tokens" else "--beams"
                raise BadInput(f"{option} does nothing without {needed}; add that, or leave it out")
            raise BadInput(f"{option} has no effect together with --{strategy}; leave one of them out")


@dataclass
class Continuation:
    """The text generated after one prompt so far."""

    prompt: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


class Printer:
    """Prints each continuation when it and all before it are finished; a single one is printed chunk by chunk.

    `close` prints the unfinished ones, after Ctrl-C.
    """

    def __init__(self, prompts: Sequence[str], out: TextIO, *, as_json: bool, logprobs: bool) -> None:
        self._rows = [Continuation(prompt) for prompt in prompts]
        self._out = out
        self._json = as_json
        self._logprobs = logprobs
        self._live = len(prompts) == 1 and not as_json
        self._printed = 0

    def add(self, chunk: TextChunk) -> None:
        """One more chunk of text."""
        row = self._rows[chunk.index]
        row.text += chunk.text
        row.finish_reason = chunk.finish_reason
        if chunk.token is not None:
            row.tokens.append(chunk.token)
        if chunk.logprob is not None:
            row.logprobs.append(chunk.logprob)
        if self._live:
            print(chunk.text, end="", file=self._out, flush=True)
            return
        while self._printed < len(self._rows) and self._rows[self._printed].finish_reason:
            self._print_next()

    def close(self) -> None:
        """Print the unfinished continuations, and end the last line."""
        while not self._live and self._printed < len(self._rows):
            self._print_next()
        if not self._json:
            print(file=self._out, flush=True)

    def _print_next(self) -> None:
        row = self._rows[self._printed]
        if self._json:
            fields: dict[str, Any] = {
                "prompt": row.prompt,
                "text": row.text,
                "finished": row.finish_reason or "interrupted",
            }
            if self._logprobs:
                fields |= {"tokens": row.tokens, "logprobs": row.logprobs}
            print(jsonlib.dumps(fields, ensure_ascii=False), file=self._out, flush=True)
        else:
            print("\n---\n" * (self._printed > 0) + row.text, end="", file=self._out, flush=True)
        self._printed += 1
