"""From logits to the next token: how each row of a batch draws it, with settings of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from litmus.bounds import Bounded
from litmus.errors import BadInput, first_fault
from litmus.generation import filters
from litmus.generation.filters import History


class Sampling(Bounded):
    """How the next token is drawn. `temperature` 0 takes the likeliest token.

    Biases, penalties and bans come first and count at temperature 0 too; then temperature, top-k, top-p, min-p and
    typical, each on what the ones before it left.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    logit_bias: dict[int, float] = Field({}, description="What is added to the logit of a token.")
    repetition_penalty: float = Field(
        1.0, gt=0, description="Divides the scores of tokens already in the text, prompt included; 1 is off."
    )
    presence_penalty: float = Field(0.0, description="Taken off once from tokens already generated; 0 is off.")
    frequency_penalty: float = Field(0.0, description="Taken off each time a token was generated; 0 is off.")
    no_repeat_ngram: int | None = Field(None, ge=1, description="No sequence of so many tokens occurs twice.")
    bad_words: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(
        (), description="Token sequences that are never written."
    )
    min_new_tokens: int = Field(0, ge=0, description="No stop token before so many tokens.")
    temperature: float = Field(0.8, ge=0, description="0 takes the likeliest token; 1 draws from the model as it is.")
    top_k: int | None = Field(None, ge=1, description="Draw from the k likeliest tokens only.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from the likeliest tokens that make up this share.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Draw from tokens at least this many times as likely as the likeliest."
    )
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Draw from the tokens of most typical surprise that make up this share."
    )

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Sampling:
        """Checked settings; BadInput names the first that cannot be."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise BadInput(first_fault(error, cls)) from None


def next_tokens(
    logits: Tensor, sampling: Sampling | Settings, uniform: Tensor, history: History | None = None
) -> Tensor:
    """Draw one token per row from logits (B, V) with one uniform number in [0, 1) per row (B,); returns (B,)."""
    settings = _per_row(sampling, logits)
    scores = settings.adjusted(logits, history)
    if settings.greedy:
        return scores.argmax(-1)
    p = settings.filtered(scores)
    drawn = torch.searchsorted(p.cumsum(-1), uniform[:, None].to(p.dtype), right=True)[:, 0]
    last = p.shape[-1] - 1 - p.flip(-1).ne(0).int().argmax(-1)  # rounding may leave the sum just below 1
    drawn = torch.minimum(drawn, last)
    return drawn if settings.at_zero is None else torch.where(settings.at_zero, scores.argmax(-1), drawn)


def probabilities(logits: Tensor, sampling: Sampling | Settings, history: History | None = None) -> Tensor:
    """The distribution (B, V) in fp64 that `next_tokens` draws from; at temperature 0 all of it is on one token."""
    settings = _per_row(sampling, logits)
    scores = settings.adjusted(logits, history)
    likeliest = torch.zeros_like(scores, dtype=torch.float64).scatter_(1, scores.argmax(-1, keepdim=True), 1.0)
    if settings.greedy:
        return likeliest
    p = settings.filtered(scores)
    return p if settings.at_zero is None else torch.where(settings.at_zero[:, None], likeliest, p)


class Settings:
    """The settings of B rows as tensors (B,). A filter that no row uses is None and costs nothing.

    A row may be None: nobody sits there, and what is drawn for it has no meaning. `ends` are each row's stop tokens.
    """

    def __init__(
        self,
        rows: Sequence[Sampling | None],
        vocabulary: int,
        device: torch.device | str = "cpu",
        ends: Sequence[Collection[int]] | None = None,
    ) -> None:
        self.rows = len(rows)
        self.greedy = all(row.temperature == 0 for row in rows if row is not None)
        idle = Sampling(temperature=0.0 if self.greedy else 1.0)
        seated = [idle if row is None else row for row in rows]

        def column(values: list[Any], off: Any, dtype: torch.dtype = torch.float64) -> Tensor | None:
            used = any(value != off for value in values)
            return torch.tensor(values, dtype=dtype, device=device) if used else None

        self.at_zero = column([row.temperature == 0 and not self.greedy for row in seated], False, torch.bool)
        self.temperature = column([row.temperature or 1.0 for row in seated], 1.0)
        self.repetition = column([row.repetition_penalty for row in seated], 1.0)
        self.presence = column([row.presence_penalty for row in seated], 0.0)
        self.frequency = column([row.frequency_penalty for row in seated], 0.0)
        self.least = column([row.min_new_tokens for row in seated], 0, torch.long)
        ks = [min(row.top_k or vocabulary, vocabulary) for row in seated]
        self.top_k = column(ks, vocabulary, torch.long)
        self.largest_k = max((k for k in ks if k < vocabulary), default=vocabulary)
        self.top_p = column([row.top_p or 1.0 for row in seated], 1.0)
        self.min_p = column([row.min_p or 0.0 for row in seated], 0.0)
        self.typical = column([row.typical_p or 1.0 for row in seated], 1.0)
        sizes = sorted({row.no_repeat_ngram for row in seated if row.no_repeat_ngram})
        self.ngrams = [
            (size, torch.tensor([row.no_repeat_ngram == size for row in seated], device=device)) for size in sizes
        ]
        self.bias = _bias(seated, vocabulary, device)
        self.words = _words(seated, device)
        self.ends = None if self.least is None or ends is None else _marked(ends, vocabulary, device)

    @property
    def looks_back(self) -> bool:
        """Whether any filter reads the tokens before."""
        reading = (self.repetition, self.presence, self.frequency, self.words, self.ends)
        return bool(self.ngrams) or any(setting is not None for setting in reading)

    def adjusted(self, logits: Tensor, history: History | None) -> Tensor:
        """Logits with biases, penalties and bans: what temperature 0 takes the largest of."""
        if self.bias is None and not self.looks_back:
            return logits
        scores = logits if self.bias is None else logits + self.bias.to(logits.dtype)
        if not self.looks_back:
            return scores
        assert history is not None, "these settings look back and need the history of their rows"
        if self.repetition is not None:
            scores = filters.repetition(scores, self.repetition, history)
        if self.presence is not None:
            scores = filters.presence(scores, self.presence, history)
        if self.frequency is not None:
            scores = filters.frequency(scores, self.frequency, history)
        allowed = scores
        for size, concerned in self.ngrams:
            allowed = filters.repeated_ngrams(allowed, size, concerned, history)
        if self.words is not None:
            allowed = filters.bad_words(allowed, *self.words, history)
        if self.least is not None and self.ends is not None:
            allowed = filters.too_early(allowed, self.least, self.ends, history)
        # A row that may not go on at all goes on as it would without the bans.
        return torch.where(allowed.amax(-1, keepdim=True) == -torch.inf, scores, allowed)

    def filtered(self, scores: Tensor) -> Tensor:
        """The distribution in fp64 after temperature, top-k, top-p, min-p and typical."""
        scores = scores.double()
        if self.temperature is not None:
            scores = scores / self.temperature[:, None]
        if self.top_k is not None:
            scores = filters.top_k(scores, self.top_k, self.largest_k)
        if self.top_p is not None:
            scores = filters.top_p(scores, self.top_p)
        if self.min_p is not None:
            scores = filters.min_p(scores, self.min_p)
        if self.typical is not None:
            scores = filters.typical(scores, self.typical)
        return scores.softmax(-1)


def _per_row(sampling: Sampling | Settings, logits: Tensor) -> Settings:
    if isinstance(sampling, Settings):
        return sampling
    return Settings([sampling] * len(logits), logits.shape[1], logits.device)


def _bias(rows: Sequence[Sampling], vocabulary: int, device: torch.device | str) -> Tensor | None:
    """What is added to the logits, (B, V)."""
    if not any(row.logit_bias for row in rows):
        return None
    bias = torch.zeros(len(rows), vocabulary)
    for number, row in enumerate(rows):
        for token, amount in row.logit_bias.items():
            bias[number, token] = amount
    return bias.to(device)


def _words(rows: Sequence[Sampling], device: torch.device | str) -> tuple[Tensor, Tensor, Tensor] | None:
    """The bad words of all rows: the row of each (N,), its tokens filled up on the left (N, L), its length (N,)."""
    words = [(number, word) for number, row in enumerate(rows) for word in row.bad_words]
    if not words:
        return None
    longest = max(len(word) for _, word in words)
    filled = [[0] * (longest - len(word)) + list(word) for _, word in words]
    numbers, lengths = [number for number, _ in words], [len(word) for _, word in words]
    return tuple(torch.tensor(values, device=device) for values in (numbers, filled, lengths))  # type: ignore[return-value]


def _marked(tokens: Sequence[Collection[int]], vocabulary: int, device: torch.device | str) -> Tensor:
    """True at the given tokens of each row, (B, V)."""
    marks = torch.zeros(len(tokens), vocabulary, dtype=torch.bool)
    for number, row in enumerate(tokens):
        marks[number, list(row)] = True
    return marks.to(device)
