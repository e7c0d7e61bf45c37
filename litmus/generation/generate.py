"""Continue prompts, given as text or as token ids: the engine with a prompt's worth of convenience around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor

from litmus.data import Tokenizer
from litmus.errors import BadInput, nearest
from litmus.generation.engine import Engine, Finish, Request
from litmus.generation.sampling import Sampling
from litmus.generation.streaming import TextStream
from litmus.model import Decoder

ROWS = 32
"""Prompts decoded at a time; the others wait for a place."""

OPTIONS = ("max_new_tokens", "seed", "stop", "stop_strings", "allow_special", "logprobs", "on_token")
ONLY_WITH = {"stop_strings": "texts", "allow_special": "texts", "on_token": "token ids"}
ENGINE = ("rows", "precision", "compile", "int8", "overflow")


@dataclass(frozen=True)
class Piece:
    """One more token of prompt number `row`, the text that it makes certain, and why the row ended if it did.

    A token that ends the row is not part of the text and is None here; `logprob` is there when `logprobs` is asked.
    """

    row: int
    text: str
    token: int | None = None
    logprob: float | None = None
    finished: Finish | None = None


@overload
def generate(model: Decoder, prompts: str | Sequence[str], *, tokenizer: Tokenizer, **options: Any) -> list[str]: ...
@overload
def generate(model: Decoder, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]: ...


def generate(model: Decoder, prompts: Any, *, tokenizer: Tokenizer | None = None, **options: Any) -> Any:
    """Continuations of the prompts, without the prompts themselves: texts for texts, token lists for token lists.

    Texts need the `tokenizer`; a text starts a new document as that says, and even an empty one has a token to go on
    from. Options: max_new_tokens (100), seed (0; row i draws from seed + i, so its text does not depend on the rows
    next to it), stop (token ids that end a row; the tokenizer's stops where there is one), stop_strings (with texts),
    allow_special (with texts: the names of special tokens in a prompt become those tokens; otherwise they are text),
    on_token (with token ids: called with the list of each step's tokens, None for rows without one); every setting
    of `Sampling`; and of the `Engine` rows, precision, compile, int8 and overflow.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    elif isinstance(prompts, Tensor):
        prompts = prompts.tolist()
    if not prompts or not isinstance(prompts[0], str):
        return continue_tokens(model, prompts, **options)
    texts = [""] * len(prompts)
    for piece in stream(model, prompts, tokenizer=tokenizer, **options):
        texts[piece.row] += piece.text
    return texts


def stream(
    model: Decoder,
    prompts: str | Sequence[str],
    *,
    tokenizer: Tokenizer | None,
    stop_strings: Sequence[str] = (),
    bad_words: Sequence[str] = (),
    allow_special: bool = False,
    **options: Any,
) -> Iterator[Piece]:
    """`generate` for texts, piece by piece as they are written; a row's pieces make up its text."""
    if tokenizer is None:
        raise BadInput("prompts given as text need tokenizer=...; without one give lists of token ids")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    tokens = [tokenizer.prompt(prompt, allow_special=allow_special) for prompt in prompts]
    options = {"stop": tokenizer.stops, "bad_words": word_tokens(bad_words, tokenizer), **options}
    written = [TextStream(tokenizer, stop_strings, begins=not prompt) for prompt in prompts]
    with _decoding(model, tokens, **options) as engine:
        for event in engine.run():
            row = written[event.id]
            text = "" if event.token is None else row.feed(event.token)
            finished = event.finished
            if row.stopped and finished is None:
                engine.cancel(event.id)
                finished = "stop"
            if finished is not None:
                text += row.finish()
            yield Piece(event.id, text, event.token, event.logprob, finished)


def continue_tokens(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    on_token: Callable[[list[int | None]], None] | None = None,
    **options: Any,
) -> list[list[int]]:
    """`generate` on token ids: the new tokens of each row, up to a stop token (left out), the limit or the end."""
    written: list[list[int]] = [[] for _ in prompts]
    with _decoding(model, prompts, **options) as engine:
        while engine.busy:
            events = engine.step()
            step: list[int | None] = [None] * len(prompts)
            for event in events:
                if event.token is not None:
                    written[event.id].append(event.token)
                    step[event.id] = event.token
            if on_token and events:
                on_token(step)
    return written


@contextlib.contextmanager
def _decoding(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 100,
    seed: int = 0,
    stop: int | Iterable[int] | None = None,
    logprobs: bool = False,
    **options: Any,
) -> Iterator[Engine]:
    """An engine with all prompts submitted; after it the model is back in the mode it came in."""
    if not prompts:
        raise BadInput("no prompt was given; at least one is needed")
    settings = {name: options.pop(name) for name in list(options) if name not in ENGINE}
    for name in settings:
        if name in ONLY_WITH:
            raise BadInput(f"{name} goes with prompts given as {ONLY_WITH[name]}, which these are not; leave it out")
        if name not in Sampling.model_fields:
            raise BadInput(f"unknown option {name!r}; {nearest(name, [*OPTIONS, *ENGINE, *Sampling.model_fields])}")
    sampling = Sampling.of(settings)
    stop = () if stop is None else (stop,) if isinstance(stop, int) else tuple(stop)
    if options.get("overflow") != "slide":
        options["capacity"] = max(2, max(len(prompt) for prompt in prompts) + max_new_tokens)
    if options.get("rows") is None:
        options["rows"] = min(len(prompts), ROWS)
    training = model.training
    try:
        engine = Engine(model, **options)
        for number, prompt in enumerate(prompts):
            engine.submit(Request(prompt, sampling, max_new_tokens, seed + number, stop, logprobs))
        yield engine
    finally:
        model.train(training)


def word_tokens(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Each word as the tokens it has at the beginning of a line and after a space."""
    forms = [form for word in words for form in (word, " " + word.lstrip())]
    return [tokens for form in dict.fromkeys(forms) if (tokens := tokenizer.encode(form))]


def sample_text(model: Decoder, tokenizer: Tokenizer, prompt: str = "", *, seed: int = 0) -> str:
    """A short text for a person to judge a model by: the prompt and how the model goes on."""
    written = generate(model, [prompt], tokenizer=tokenizer, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=seed)
    return prompt + written[0]
