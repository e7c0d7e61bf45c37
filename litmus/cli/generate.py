"""`litmus generate`: continue prompts with a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.catalog import check_run
from litmus.cli import sampling
from litmus.cli.options import TokenizerOfSaved, TrustPlugin
from litmus.cli.output import announce
from litmus.cli.ways import check_ways


def generate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, such as runs/standard, or a saved model.")],
    prompt: Annotated[str | None, typer.Option(help="The text to continue; a new document when not given.")] = None,
    file: Annotated[Path | None, typer.Option(help="Continue each line of this file.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Continue the text that comes in.")] = False,
    n: Annotated[int, typer.Option("--n", min=1, help="How many continuations of each prompt.")] = 1,
    max_new_tokens: sampling.MaxNewTokens = 200,
    temperature: sampling.Temperature = 0.8,
    top_k: sampling.TopK = None,
    top_p: sampling.TopP = None,
    min_p: sampling.MinP = None,
    typical_p: sampling.TypicalP = None,
    repetition_penalty: sampling.RepetitionPenalty = 1.0,
    presence_penalty: sampling.PresencePenalty = 0.0,
    frequency_penalty: sampling.FrequencyPenalty = 0.0,
    no_repeat_ngram: sampling.NoRepeatNgram = None,
    min_new_tokens: sampling.MinNewTokens = 0,
    bad_word: sampling.BadWord = None,
    logit_bias: sampling.LogitBias = None,
    stop: sampling.Stop = None,
    stop_token: sampling.StopToken = None,
    seed: sampling.Seed = 0,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Search with so many beams, and print the --n best texts found.")
    ] = None,
    length_penalty: Annotated[
        float, typer.Option(help="Beams are judged by log p / length ** this; above 0 favours long texts.")
    ] = 1.0,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="End the search with as many ended texts as beams.")
    ] = False,
    contrastive: Annotated[
        float | None,
        typer.Option(metavar="ALPHA", help="Take, of the --top-k likeliest tokens (4), one unlike the text so far."),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(help="A smaller run that drafts tokens for this one to check; self: its own MTP modules."),
    ] = None,
    ahead: Annotated[int | None, typer.Option(min=1, help="Tokens that a smaller run drafts at a time (4).")] = None,
    overflow: Annotated[
        str, typer.Option(help="At the end of the context: stop, or slide, going on from its last half.")
    ] = "stop",
    rows: Annotated[int | None, typer.Option(min=1, help="Prompts decoded at a time.")] = None,
    precision: sampling.Precision = None,
    int8: sampling.Int8 = False,
    compile: sampling.Compile = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes CUDA when there is one.")] = "auto",
    best: Annotated[bool, typer.Option("--best", help="Take the checkpoint with the lowest validation loss.")] = False,
    tokenizer_name: TokenizerOfSaved = None,
    trust_plugin: TrustPlugin = False,
    special: sampling.Special = False,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="With --json: tokens and log-probabilities.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per continuation.")] = False,
) -> None:
    """Continue prompts with a trained run; the prompts themselves are not printed.

    Continuation i of prompt p draws from seed + p * n + i. Ctrl-C prints what there is and exits with 130. An imported
    model generates as its generation_config.json asks, greedy unless that says do_sample, where no option says more.

    Examples:

      litmus generate runs/standard --prompt "def main("

      litmus generate runs/standard --n 3 --temperature 1 --top-p 0.95 --seed 7

      litmus generate runs/standard --file prompts.txt --json --logprobs > continued.jsonl

      git diff | litmus generate runs/standard --stdin --stop "diff --git" --no-repeat-ngram 8

      litmus generate runs/standard --prompt "def main(" --beams 4 --n 2 --length-penalty 0.8

      litmus generate runs/standard --prompt "def main(" --contrastive 0.6 --top-k 5

      litmus generate runs/deepseek --prompt "def main(" --draft self
    """
    check_ways(context)
    check_run(run)

    from functools import partial

    from litmus.generation.beam import best_texts
    from litmus.generation.contrastive import contrastive_search
    from litmus.generation.defaults import generation_defaults
    from litmus.generation.drafts import draft_named
    from litmus.generation.generate import stream
    from litmus.generation.one_by_one import Decode, stream_one_by_one
    from litmus.generation.printing import Printer
    from litmus.generation.prompts import biases_named, check_amount, read_prompts, token_named, typed
    from litmus.generation.speculative import Tally, speculate
    from litmus.generation.weights import prepared
    from litmus.model.plugins import plugin_faults
    from litmus.runtime.device import pick_device
    from litmus.training.loading import imported_facts, load_with_tokenizer, needs_tokenizer

    given = read_prompts(prompt, file, sys.stdin.buffer if stdin else None)
    check_amount(n * len(given), 1)
    prompts = [text for text in given for _ in range(n)]
    where = pick_device(device)
    model, tokenizer = load_with_tokenizer(
        run, tokenizer=tokenizer_name, best=best, trust_plugin=trust_plugin, announce=announce
    )
    if tokenizer is None:
        raise needs_tokenizer(run)
    room = max_new_tokens if overflow == "slide" else min(max_new_tokens, model.recipe.context)
    check_amount(len(prompts), room)
    options: dict[str, Any] = {
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
        "stop": [*tokenizer.stops, *(token_named(name, tokenizer, "stop token") for name in stop_token or ())],
        "stop_strings": [typed(text, "--stop") for text in stop or ()],
        "seed": seed,
        "logprobs": logprobs,
        "allow_special": special,
    }
    imported = imported_facts(run)
    if imported is not None and imported.generation_config is not None:
        options = sampling.as_the_model_asks(context, options, generation_defaults(imported.generation_config))
    weights: dict[str, Any] = {"precision": precision, "int8": int8}
    model, tally = model.to(where), Tally()
    if beams is None and contrastive is None and draft is None:
        engine: dict[str, Any] = {"overflow": overflow, "rows": rows, "compile": compile}
        pieces = stream(model, prompts, tokenizer=tokenizer, **weights, **engine, **options)
    else:
        model, each = prepared(model, **weights), 1
        decode: Decode
        if beams is not None:
            search: dict[str, Any] = {
                "beams": beams,
                "length_penalty": length_penalty,
                "early_stopping": early_stopping,
            }
            decode, each = partial(best_texts, model, best=n, **search), n
        elif contrastive is not None:
            decode = partial(contrastive_search, model, alpha=contrastive, candidates=top_k or 4)
        else:
            drafting = draft_named(draft or "", model, tokenizer, ahead, trust_plugin=trust_plugin)
            decode = partial(speculate, model, draft=drafting, tally=tally)
        pieces = stream_one_by_one(decode, prompts[::each], tokenizer=tokenizer, each=each, **options)
    printer = Printer(prompts, sys.stdout, as_json=json, logprobs=logprobs)
    interrupted = None
    try:
        with plugin_faults(model.recipe, "decoding"):
            for piece in pieces:
                printer.take(piece)
    except KeyboardInterrupt as error:
        interrupted = error
    printer.close()
    if draft is not None:
        announce(str(tally))
    if interrupted is not None:
        raise interrupted
