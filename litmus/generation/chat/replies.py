"""Replies of a model to held-out threads: whether they end, repeat themselves, or echo what was said before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from litmus.data import TokenData, Tokenizer
from litmus.errors import BadInput
from litmus.files import read_regular_file
from litmus.generation.generate import generate
from litmus.model import Decoder

NGRAM = 4
"""Tokens of the sequences whose repetition and echo are counted."""


class Sample(BaseModel):
    """A held-out context, what the model replies, and what was said. ended: whether the reply ends within the limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context: str
    reply: str
    said: str
    ended: bool


class TextStats(BaseModel):
    """Statistics of replies: distinct words and pairs of words as fractions of all (Li et al. 2016, arXiv 1510.03055).

    repetition: the fraction of sequences of four tokens that occurred before in the same reply; echo: that are in its
    context. A reply of fewer tokens counts in neither. toxic: the fraction of replies with a word of the user's list,
    None without one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    distinct_1: float
    distinct_2: float
    repetition: float
    echo: float
    mean_tokens: float
    toxic: float | None = None

    @classmethod
    def of(
        cls,
        contexts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        texts: Sequence[str],
        toxic_words: re.Pattern[str] | None = None,
    ) -> TextStats:
        """The statistics of replies, as tokens and as texts, to contexts."""
        words = [text.split() for text in texts]
        repeated = echoed = total = 0
        for context, reply in zip(contexts, replies, strict=True):
            known, seen = set(_ngrams(context, NGRAM)), set[tuple[int, ...]]()
            for ngram in _ngrams(reply, NGRAM):
                total += 1
                echoed += ngram in known
                repeated += ngram in seen
                seen.add(ngram)
        singles = [word for said in words for word in said]
        pairs = [pair for said in words for pair in pairwise(said)]
        return cls(
            distinct_1=len(set(singles)) / max(len(singles), 1),
            distinct_2=len(set(pairs)) / max(len(pairs), 1),
            repetition=repeated / max(total, 1),
            echo=echoed / max(total, 1),
            mean_tokens=sum(map(len, replies)) / len(replies),
            toxic=None if toxic_words is None else sum(bool(toxic_words.search(t)) for t in texts) / len(texts),
        )


class Replies(BaseModel):
    """Replies to contexts spread evenly over the held-out threads, next to what was said there.

    ended: the fraction that end within `max_new_tokens`; said_ended: of what was said, as a bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int
    ended: float
    said_ended: float
    stats: TextStats
    said_stats: TextStats
    samples: list[Sample]


def reply_to_held_out(
    model: Decoder,
    data: TokenData,
    *,
    replies: int = 50,
    max_new_tokens: int = 30,
    temperature: float = 0.8,
    top_k: int = 50,
    toxic_words: re.Pattern[str] | None = None,
    seed: int = 0,
) -> Replies:
    """Let a model reply to `replies` held-out contexts, by default with the settings of the mini_deepseek report."""
    if data.windows is None:
        raise BadInput("only a run on threads has contexts to reply to")
    room = model.recipe.context - max_new_tokens
    if room < 1:
        raise BadInput(f"replies of {max_new_tokens} tokens leave no room in a context of {model.recipe.context}")
    windows = data.windows["held_out"]
    numbers = np.unique(np.linspace(0, len(windows) - 1, replies).round().astype(int))
    contexts, said = [], []
    for number in numbers.tolist():
        ids, scored = windows.window(number)
        last = len(ids) - int(np.argmin(scored[::-1]))  # the last target begins after the last token not trained on
        contexts.append(ids[:last].tolist())
        said.append(ids[last:].tolist())
    ends = {int(reply[-1]) for reply in said} & set(data.tokenizer.special.values())
    prompts = [context[-room:] for context in contexts]
    found = generate(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop=sorted(ends),
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )
    ended = [len(reply) < max_new_tokens for reply in found]
    cut = [[token for token in reply if token not in ends][:max_new_tokens] for reply in said]
    texts, truths = ([data.tokenizer.decode(reply).strip() for reply in replies] for replies in (found, cut))
    return Replies(
        max_new_tokens=max_new_tokens,
        ended=sum(ended) / len(ended),
        said_ended=sum(len(reply) <= max_new_tokens for reply in said) / len(said),
        stats=TextStats.of(contexts, found, texts, toxic_words),
        said_stats=TextStats.of(contexts, cut, truths, toxic_words),
        samples=[
            Sample(context=_lines(context, data.tokenizer), reply=text, said=truth, ended=done)
            for context, text, truth, done in zip(contexts, texts, truths, ended, strict=True)
        ],
    )


def read_word_list(path: Path) -> re.Pattern[str]:
    """A pattern that finds the words and phrases of a file, one a line, as whole words in any case.

    BadInput for a file that cannot be read or holds no word.
    """
    try:
        lines = read_regular_file(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"{path} cannot be read: {reason}; a list with one word or phrase a line is valid") from None
    entries = [r"\s+".join(map(re.escape, line.split())) for line in lines if line.strip()]
    if not entries:
        raise BadInput(f"{path} holds no words; one word or phrase a line is valid")
    return re.compile(rf"(?<!\w)(?:{'|'.join(entries)})(?!\w)", re.IGNORECASE)


def _lines(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of tokens, on a new line after each control token."""
    control = set(tokenizer.special.values())
    parts = [tokenizer.decode(run) for held, run in groupby(tokens, control.__contains__) if not held]
    return "\n".join(part.strip("\n") for part in parts)


def _ngrams(tokens: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
