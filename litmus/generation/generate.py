"""Continue prompts, given as text or as token ids, by the engine or by a strategy that takes one prompt at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor

from litmus.data import Tokenizer
from litmus.errors import BadInput, nearest
from litmus.generation.detokenizer import IncrementalDetokenizer
from litmus.generation.engine import Engine, FinishReason, Request, TokenEvent
from litmus.generation.sampling import Sampling
from litmus.model import Decoder

MAX_BATCH_SIZE = 32
"""Prompts decoded at a time by default; the others wait."""

OPTIONS = ("max_new_tokens", "seed", "stop", "stop_strings", "allow_special", "logprobs", "on_token")
ONLY_WITH = {"stop_strings": "texts", "allow_special": "texts", "on_token": "token ids"}
ENGINE_OPTIONS = ("max_batch_size", "precision", "compile", "int8", "int4", "overflow")

Decode = Callable[[Request], Iterator[TokenEvent]]
"""A decoding strategy that takes one prompt at a time: beam or contrastive search, speculative decoding."""


@dataclass(frozen=True)
class TextChunk:
    """One more token of prompt number `index`, the text that it makes final, and the finish reason if there is one.

    A stop token is not part of the text and is None here; `logprob` is present with `logprobs`.
    """

    index: int
    text: str
    token: int | None = None
    logprob: float | None = None
    finish_reason: FinishReason | None = None


@overload
def generate(model: Decoder, prompts: str | Sequence[str], *, tokenizer: Tokenizer, **options: Any) -> list[str]: ...
@overload
def generate(model: Decoder, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]: ...


def generate(model: Decoder, prompts: Any, *, tokenizer: Tokenizer | None = None, **options: Any) -> Any:
    """Continuations of the prompts, without the prompts themselves: texts for texts, token lists for token lists.

    Texts need the `tokenizer`, which adds the tokens that begin a document; the prompt may be empty. Options:

    - max_new_tokens (100);
    - seed (0): prompt i samples with seed + i, independently of the rest of the batch;
    - stop: token ids that end a continuation (with texts, the tokenizer's by default);
    - stop_strings, with texts;
    - allow_special, with texts: names of special tokens in a prompt are read as those tokens, not as text;
    - on_token, with token ids: called with the list of each step's tokens, None for prompts without one;
    - every setting of `Sampling`;
    - of the `Engine`: max_batch_size, precision, compile, int8, int4 and overflow.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    elif isinstance(prompts, Tensor):
        prompts = prompts.tolist()
    if not prompts or not isinstance(prompts[0], str):
        return generate_tokens(model, prompts, **options)
    texts = [""] * len(prompts)
    for chunk in stream(model, prompts, tokenizer=tokenizer, **options):
        texts[chunk.index] += chunk.text
    return texts


def stream(
    model: Decoder,
    prompts: str | Sequence[str | Sequence[int]],
    *,
    tokenizer: Tokenizer | None,
    stop_strings: Sequence[str] = (),
    bad_words: Sequence[str] = (),
    allow_special: bool = False,
    **options: Any,
) -> Iterator[TextChunk]:
    """`generate` for texts, chunk by chunk as they are generated; a prompt may also be given as token ids."""
    if tokenizer is None:
        raise BadInput("prompts given as text need tokenizer=...; without one give lists of token ids")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    tokens = [_tokens(prompt, tokenizer, allow_special) for prompt in prompts]
    options = {"stop": tokenizer.stop_ids, "bad_words": bad_word_tokens(bad_words, tokenizer), **options}
    texts = [IncrementalDetokenizer(tokenizer, stop_strings, at_start=not prompt) for prompt in prompts]
    with _engine(model, tokens, **options) as engine:
        yield from text_chunks(engine, dict(enumerate(texts)))


def text_chunks(engine: Engine, texts: Mapping[int, IncrementalDetokenizer]) -> Iterator[TextChunk]:
    """Run an engine until its requests are finished, as text; `texts` has the detokenizer of each request's id."""
    for event in engine.run():
        detokenizer = texts[event.id]
        text = "" if event.token is None else detokenizer.feed(event.token)
        reason = event.finish_reason
        if detokenizer.stopped and reason is None:
            engine.cancel(event.id)
            reason = "stop"
        if reason is not None:
            text += detokenizer.finish()
        yield TextChunk(event.id, text, event.token, event.logprob, reason)


def stream_one_by_one(
    decode: Decode,
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    n: int = 1,
    max_new_tokens: int = 100,
    seed: int = 0,
    stop: Iterable[int] = (),
    stop_strings: Sequence[str] = (),
    bad_words: Sequence[str] = (),
    allow_special: bool = False,
    logprobs: bool = False,
    **settings: Any,
) -> Iterator[TextChunk]:
    """`stream` with a strategy that takes one prompt at a time and generates `n` continuations of it.

    The ids of its events are 0 ... n - 1; continuation i of prompt p has the index p · n + i. `settings` are those of
    `Sampling`; prompt p samples with seed + p.
    """
    sampling = Sampling.of({**settings, "bad_words": bad_word_tokens(bad_words, tokenizer)})
    for number, prompt in enumerate(prompts):
        tokens = _tokens(prompt, tokenizer, allow_special)
        request = Request(tokens, sampling, max_new_tokens, seed + number, tuple(stop), logprobs)
        texts = [IncrementalDetokenizer(tokenizer, stop_strings, at_start=not prompt) for _ in range(n)]
        for event in decode(request):
            detokenizer, reason = texts[event.id], event.finish_reason
            if detokenizer.stopped:
                continue
            text = "" if event.token is None else detokenizer.feed(event.token)
            if detokenizer.stopped:
                reason = "stop"
            if reason is not None:
                text += detokenizer.finish()
            yield TextChunk(number * n + event.id, text, event.token, event.logprob, reason)
            if all(detokenizer.stopped for detokenizer in texts):
                break


def generate_tokens(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    on_token: Callable[[list[int | None]], None] | None = None,
    **options: Any,
) -> list[list[int]]:
    """`generate` for token ids: the new tokens of each prompt, without the stop token."""
    generated: list[list[int]] = [[] for _ in prompts]
    with _engine(model, prompts, **options) as engine:
        while engine.busy:
            events = engine.step()
            step: list[int | None] = [None] * len(prompts)
            for event in events:
                if event.token is not None:
                    generated[event.id].append(event.token)
                    step[event.id] = event.token
            if on_token and events:
                on_token(step)
    return generated


@contextlib.contextmanager
def _engine(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 100,
    seed: int = 0,
    stop: int | Iterable[int] | None = None,
    logprobs: bool = False,
    **options: Any,
) -> Iterator[Engine]:
    """An engine with all prompts submitted; afterwards the model is back in its original mode."""
    if not prompts:
        raise BadInput("no prompt was given; at least one is needed")
    settings = {name: options.pop(name) for name in list(options) if name not in ENGINE_OPTIONS}
    for name in settings:
        if name in ONLY_WITH:
            raise BadInput(f"{name} goes with prompts given as {ONLY_WITH[name]}, which these are not; leave it out")
        if name not in Sampling.model_fields:
            known = [*OPTIONS, *ENGINE_OPTIONS, *Sampling.model_fields]
            raise BadInput(f"unknown option {name!r}; {nearest(name, known)}")
    sampling = Sampling.of(settings)
    stop = () if stop is None else (stop,) if isinstance(stop, int) else tuple(stop)
    if options.get("overflow") != "slide":
        options["capacity"] = max(2, max(len(prompt) for prompt in prompts) + max_new_tokens)
    if options.get("max_batch_size") is None:
        options["max_batch_size"] = min(len(prompts), MAX_BATCH_SIZE)
    training = model.training
    try:
        engine = Engine(model, **options)
        for number, prompt in enumerate(prompts):
            engine.submit(Request(prompt, sampling, max_new_tokens, seed + number, stop, logprobs))
        yield engine
    finally:
        model.train(training)


def bad_word_tokens(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each word, both at the beginning of a line and after a space."""
    forms = [form for word in words for form in (word, " " + word.lstrip())]
    return [tokens for form in dict.fromkeys(forms) if (tokens := tokenizer.encode(form))]


def sample_text(model: Decoder, tokenizer: Tokenizer, prompt: str = "", *, seed: int = 0) -> str:
    """A short sample for a person to judge a model by: the prompt and a continuation."""
    text = generate(model, [prompt], tokenizer=tokenizer, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=seed)
    return prompt + text[0]


def _tokens(prompt: str | Sequence[int], tokenizer: Tokenizer, allow_special: bool) -> Sequence[int]:
    return tokenizer.prompt(prompt, allow_special=allow_special) if isinstance(prompt, str) else prompt
