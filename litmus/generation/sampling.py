"""From logits to the next token: sampling with settings of its own for each row of a batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from litmus.bounds import Bounded
from litmus.errors import BadInput, first_fault
from litmus.generation import logits_processors as processors
from litmus.generation.logits_processors import TokenHistory


class Sampling(Bounded):
    """How the next token is sampled; `temperature` 0 is greedy.

    Order: biases, penalties and bans, which apply to greedy decoding too; then temperature, top-k, top-p, min-p and
    typical-p, each on the result of the previous one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    logit_bias: dict[int, float] = Field({}, description="Amount added to the logit of each token id.")
    repetition_penalty: float = Field(
        1.0, gt=0, description="Divide the scores of tokens in the context, prompt included, by this; 1 is off."
    )
    presence_penalty: float = Field(
        0.0, description="Subtract this from the scores of tokens generated so far; 0 is off."
    )
    frequency_penalty: float = Field(
        0.0, description="Subtract this from a token's score for each time it was generated; 0 is off."
    )
    no_repeat_ngram: int | None = Field(None, ge=1, description="Never repeat a sequence of this many tokens.")
    bad_words: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(
        (), description="Token sequences that are never generated."
    )
    min_new_tokens: int = Field(0, ge=0, description="Forbid stop tokens until this many tokens are generated.")
    temperature: float = Field(
        0.8, ge=0, description="Divide the logits by this; 0 is greedy, 1 the model's own distribution."
    )
    top_k: int | None = Field(None, ge=1, description="Keep the k most probable tokens.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Keep the smallest set of most probable tokens with total probability top_p."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Keep tokens with probability of at least min_p times the top token's."
    )
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Keep the most typical tokens, up to total probability typical_p."
    )

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Sampling:
        """Validated settings; BadInput names the first invalid one."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise BadInput(first_fault(error, cls)) from None


def next_tokens(
    logits: Tensor, sampling: Sampling | BatchSampling, uniform: Tensor, history: TokenHistory | None = None
) -> Tensor:
    """Sample one token per row from logits (B, V) with one uniform number in [0, 1) per row (B,); returns (B,)."""
    batch = _for_batch(sampling, logits)
    scores = batch.penalized(logits, history)
    if batch.all_greedy:
        return scores.argmax(-1)
    p = batch.truncated(scores)
    sampled = torch.searchsorted(p.cumsum(-1), uniform[:, None].to(p.dtype), right=True)[:, 0]
    last = p.shape[-1] - 1 - p.flip(-1).ne(0).int().argmax(-1)  # rounding may leave the sum just below 1
    sampled = torch.minimum(sampled, last)
    return sampled if batch.greedy is None else torch.where(batch.greedy, scores.argmax(-1), sampled)


def probabilities(logits: Tensor, sampling: Sampling | BatchSampling, history: TokenHistory | None = None) -> Tensor:
    """The distribution (B, V) in fp64 that `next_tokens` samples from; one-hot at temperature 0."""
    batch = _for_batch(sampling, logits)
    scores = batch.penalized(logits, history)
    one_hot = torch.zeros_like(scores, dtype=torch.float64).scatter_(1, scores.argmax(-1, keepdim=True), 1.0)
    if batch.all_greedy:
        return one_hot
    p = batch.truncated(scores)
    return p if batch.greedy is None else torch.where(batch.greedy[:, None], one_hot, p)


class BatchSampling:
    """The settings of B rows as tensors (B,). A processor that no row uses is None and costs nothing.

    None stands for an idle row, whose sampled token is meaningless. `stops` are the stop tokens of each row.
    """

    def __init__(
        self,
        rows: Sequence[Sampling | None],
        vocabulary: int,
        device: torch.device | str = "cpu",
        stops: Sequence[Collection[int]] | None = None,
    ) -> None:
        self.rows = len(rows)
        self.all_greedy = all(row.temperature == 0 for row in rows if row is not None)
        idle = Sampling(temperature=0.0 if self.all_greedy else 1.0)
        settings = [idle if row is None else row for row in rows]

        def column(values: list[Any], off: Any, dtype: torch.dtype = torch.float64) -> Tensor | None:
            used = any(value != off for value in values)
            return torch.tensor(values, dtype=dtype, device=device) if used else None

        self.greedy = column([row.temperature == 0 and not self.all_greedy for row in settings], False, torch.bool)
        self.temperature = column([row.temperature or 1.0 for row in settings], 1.0)
        self.repetition_penalty = column([row.repetition_penalty for row in settings], 1.0)
        self.presence_penalty = column([row.presence_penalty for row in settings], 0.0)
        self.frequency_penalty = column([row.frequency_penalty for row in settings], 0.0)
        self.min_new_tokens = column([row.min_new_tokens for row in settings], 0, torch.long)
        ks = [min(row.top_k or vocabulary, vocabulary) for row in settings]
        self.top_k = column(ks, vocabulary, torch.long)
        self.max_k = max((k for k in ks if k < vocabulary), default=vocabulary)
        self.top_p = column([row.top_p or 1.0 for row in settings], 1.0)
        self.min_p = column([row.min_p or 0.0 for row in settings], 0.0)
        self.typical_p = column([row.typical_p or 1.0 for row in settings], 1.0)
        sizes = sorted({row.no_repeat_ngram for row in settings if row.no_repeat_ngram})
        self.ngrams = [
            (size, torch.tensor([row.no_repeat_ngram == size for row in settings], device=device)) for size in sizes
        ]
        self.bias = _bias(settings, vocabulary, device)
        self.bad_words = _bad_words(settings, device)
        self.stop_mask = (
            None if self.min_new_tokens is None or stops is None else _token_mask(stops, vocabulary, device)
        )

    @property
    def needs_history(self) -> bool:
        """Whether any processor reads earlier tokens."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return bool(self.ngrams) or any(setting is not None for setting in (*penalties, self.bad_words, self.stop_mask))

    def penalized(self, logits: Tensor, history: TokenHistory | None) -> Tensor:
        """Logits (B, V) after biases, penalties and bans; greedy decoding takes their argmax."""
        scores = logits if self.bias is None else logits + self.bias.to(logits.dtype)
        if not self.needs_history:
            return scores
        assert history is not None, "these settings need the token history of their rows"
        if self.repetition_penalty is not None:
            scores = processors.repetition_penalty(scores, self.repetition_penalty, history)
        if self.presence_penalty is not None:
            scores = processors.presence_penalty(scores, self.presence_penalty, history)
        if self.frequency_penalty is not None:
            scores = processors.frequency_penalty(scores, self.frequency_penalty, history)
        allowed = scores
        for size, rows in self.ngrams:
            allowed = processors.no_repeat_ngram(allowed, size, rows, history)
        if self.bad_words is not None:
            allowed = processors.bad_words(allowed, *self.bad_words, history)
        if self.min_new_tokens is not None and self.stop_mask is not None:
            allowed = processors.min_new_tokens(allowed, self.min_new_tokens, self.stop_mask, history)
        # Where the bans forbid every token of a row, they are ignored in that row.
        return torch.where(allowed.amax(-1, keepdim=True) == -torch.inf, scores, allowed)

    def truncated(self, scores: Tensor) -> Tensor:
        """The distribution (B, V) in fp64 after temperature, top-k, top-p, min-p and typical-p."""
        scores = scores.double()
        if self.temperature is not None:
            scores = scores / self.temperature[:, None]
        if self.top_k is not None:
            scores = processors.top_k(scores, self.top_k, self.max_k)
        if self.top_p is not None:
            scores = processors.top_p(scores, self.top_p)
        if self.min_p is not None:
            scores = processors.min_p(scores, self.min_p)
        if self.typical_p is not None:
            scores = processors.typical_p(scores, self.typical_p)
        return scores.softmax(-1)


def _for_batch(sampling: Sampling | BatchSampling, logits: Tensor) -> BatchSampling:
    if isinstance(sampling, BatchSampling):
        return sampling
    return BatchSampling([sampling] * len(logits), logits.shape[1], logits.device)


def _bias(rows: Sequence[Sampling], vocabulary: int, device: torch.device | str) -> Tensor | None:
    """The logit biases of all rows, (B, V)."""
    if not any(row.logit_bias for row in rows):
        return None
    bias = torch.zeros(len(rows), vocabulary)
    for number, row in enumerate(rows):
        for token, amount in row.logit_bias.items():
            bias[number, token] = amount
    return bias.to(device)


def _bad_words(rows: Sequence[Sampling], device: torch.device | str) -> tuple[Tensor, Tensor, Tensor] | None:
    """The bad words of all rows: the row of each (N,), its tokens padded on the left (N, L), its length (N,)."""
    words = [(number, word) for number, row in enumerate(rows) for word in row.bad_words]
    if not words:
        return None
    longest = max(len(word) for _, word in words)
    padded = [[0] * (longest - len(word)) + list(word) for _, word in words]
    numbers, lengths = [number for number, _ in words], [len(word) for _, word in words]
    return tuple(torch.tensor(values, device=device) for values in (numbers, padded, lengths))  # type: ignore[return-value]


def _token_mask(tokens: Sequence[Collection[int]], vocabulary: int, device: torch.device | str) -> Tensor:
    """True at the given tokens of each row, (B, V)."""
    mask = torch.zeros(len(tokens), vocabulary, dtype=torch.bool)
    for number, row in enumerate(tokens):
        mask[number, list(row)] = True
    return mask.to(device)
