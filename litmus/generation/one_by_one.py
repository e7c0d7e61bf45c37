"""Texts from ways of decoding that take one prompt at a time: searches, and drafts that are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from litmus.data import Tokenizer
from litmus.generation.engine import Event, Request
from litmus.generation.generate import Piece, word_tokens
from litmus.generation.sampling import Sampling
from litmus.generation.streaming import TextStream

Decode = Callable[[Request], Iterator[Event]]


def stream_one_by_one(
    decode: Decode,
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    each: int = 1,
    max_new_tokens: int = 100,
    seed: int = 0,
    stop: Iterable[int] = (),
    stop_strings: Sequence[str] = (),
    bad_words: Sequence[str] = (),
    allow_special: bool = False,
    logprobs: bool = False,
    **settings: Any,
) -> Iterator[Piece]:
    """What `stream` gives, by another way of decoding: `decode` writes `each` continuations of a prompt.

    Their events are numbered from 0; continuation i of prompt p becomes row p · each + i. `settings` are those of
    `Sampling`, and prompt p draws from seed + p.
    """
    sampling = Sampling.of({**settings, "bad_words": word_tokens(bad_words, tokenizer)})
    for number, prompt in enumerate(prompts):
        tokens = tokenizer.prompt(prompt, allow_special=allow_special)
        request = Request(tokens, sampling, max_new_tokens, seed + number, tuple(stop), logprobs)
        rows = [TextStream(tokenizer, stop_strings, begins=not prompt) for _ in range(each)]
        for event in decode(request):
            row, finished = rows[event.id], event.finished
            if row.stopped:
                continue
            text = "" if event.token is None else row.feed(event.token)
            if row.stopped:
                finished = "stop"
            if finished is not None:
                text += row.finish()
            yield Piece(number * each + event.id, text, event.token, event.logprob, finished)
            if all(row.stopped for row in rows):
                break
