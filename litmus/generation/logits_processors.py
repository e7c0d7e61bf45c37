"""Logits processors. Each maps scores (B, V) to scores, with one setting per row (B,).

A forbidden token gets -inf. Every setting has a neutral value, so that rows with and without a processor share one
batch. Processors that depend on earlier tokens read the `TokenHistory` of their rows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor


class TokenHistory:
    """The tokens in the context of each row: `tokens` (B, C), of which the first `lengths` (B,) are used.

    `generated` (B,) counts all generated tokens; those still in the context are its last ones.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.tokens = torch.zeros(rows, capacity, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.generated = torch.zeros(rows, dtype=torch.long, device=device)

    def set_row(self, row: int, tokens: Sequence[int], generated: int = 0) -> None:
        """Replace the tokens of `row`, of which `generated` were generated so far."""
        self.tokens[row, : len(tokens)] = torch.tensor(tokens, device=self.tokens.device)
        self.lengths[row], self.generated[row] = len(tokens), generated

    def append(self, new: Tensor, active: Tensor) -> None:
        """Add one token (B,) to the rows where `active` (B,) is True."""
        slot = self.lengths.clamp(max=self.tokens.shape[1] - 1)[:, None]  # inactive rows overwrite it with their next
        self.tokens.scatter_(1, slot, new[:, None])
        self.lengths += active
        self.generated += active

    def first_rows(self, rows: int) -> TokenHistory:
        """A view of the first `rows` rows."""
        view = copy.copy(self)
        view.tokens, view.lengths, view.generated = self.tokens[:rows], self.lengths[:rows], self.generated[:rows]
        return view

    def counts(self, vocabulary: int, *, generated_only: bool) -> Tensor:
        """Number of occurrences of each token in each row, (B, V)."""
        slots = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        counted = slots < self.lengths[:, None]
        if generated_only:
            counted &= slots >= (self.lengths - self.generated)[:, None]
        zeros = torch.zeros(len(self.tokens), vocabulary, dtype=torch.long, device=self.tokens.device)
        return zeros.scatter_add_(1, self.tokens, counted.long())

    def last_tokens(self, number: int) -> tuple[Tensor, Tensor]:
        """The last `number` tokens of each row and which of them exist, both (B, number)."""
        slots = self.lengths[:, None] + torch.arange(-number, 0, device=self.tokens.device)
        return self.tokens.gather(1, slots.clamp(min=0)), slots >= 0


def repetition_penalty(scores: Tensor, penalty: Tensor, history: TokenHistory) -> Tensor:
    """Scores of tokens in the context, divided by `penalty` where positive and multiplied where negative; 1: off.

    Keskar et al. 2019, CTRL (arXiv 1909.05858).
    """
    seen = history.counts(scores.shape[1], generated_only=False) > 0
    factor = penalty[:, None].to(scores.dtype)
    return torch.where(seen, torch.where(scores > 0, scores / factor, scores * factor), scores)


def presence_penalty(scores: Tensor, penalty: Tensor, history: TokenHistory) -> Tensor:
    """Scores minus `penalty` for tokens that were generated at least once; 0: off."""
    return scores - (history.counts(scores.shape[1], generated_only=True) > 0) * penalty[:, None].to(scores.dtype)


def frequency_penalty(scores: Tensor, penalty: Tensor, history: TokenHistory) -> Tensor:
    """Scores minus `penalty` times the number of times that a token was generated; 0: off."""
    return scores - history.counts(scores.shape[1], generated_only=True) * penalty[:, None].to(scores.dtype)


def no_repeat_ngram(scores: Tensor, size: int, rows: Tensor, history: TokenHistory) -> Tensor:
    """Forbid tokens that would repeat an n-gram of `size` tokens, in rows where `rows` (B,) is True."""
    if size > history.tokens.shape[1]:
        return scores
    windows = history.tokens.unfold(1, size, 1)  # (B, W, size)
    prefix, _ = history.last_tokens(size - 1) if size > 1 else (windows[:, :0, 0], None)
    ends = torch.arange(size, history.tokens.shape[1] + 1, device=scores.device)
    repeats = (windows[..., :-1] == prefix[:, None]).all(-1) & (ends <= history.lengths[:, None]) & rows[:, None]
    marks = torch.zeros(scores.shape, dtype=torch.long, device=scores.device)
    marks.scatter_add_(1, windows[..., -1], repeats.long())
    return scores.masked_fill(marks > 0, -torch.inf)


def bad_words(scores: Tensor, row: Tensor, words: Tensor, width: Tensor, history: TokenHistory) -> Tensor:
    """Forbid the last token of each word where the context ends with its other tokens.

    N words of one or more tokens: `words` (N, L), padded on the left, of which the last `width` (N,) are real; `row`
    (N,) is the batch row of each.
    """
    length = words.shape[1] - 1
    matches = torch.ones(len(words), dtype=torch.bool, device=scores.device)
    if length:
        last, exist = history.last_tokens(length)
        needed = torch.arange(length, device=scores.device) >= length + 1 - width[:, None]
        matches = (~needed | ((last[row] == words[:, :-1]) & exist[row])).all(1)
    penalty = torch.zeros_like(scores)
    penalty.index_put_((row, words[:, -1]), torch.where(matches, -torch.inf, 0.0).to(scores.dtype), accumulate=True)
    return scores + penalty


def min_new_tokens(scores: Tensor, minimum: Tensor, stop_mask: Tensor, history: TokenHistory) -> Tensor:
    """Forbid the stop tokens in `stop_mask` (B, V) until `minimum` (B,) tokens are generated."""
    early = history.generated < minimum
    return scores.masked_fill(stop_mask & early[:, None], -torch.inf)


def top_k(scores: Tensor, k: Tensor, max_k: int) -> Tensor:
    """Keep the `k` (B,) most probable tokens and ties with the k-th; V or more: off. `max_k`, on the host, bounds k."""
    ordered = scores.topk(min(max_k, scores.shape[1]), dim=-1).values
    threshold = ordered.gather(1, (k - 1).clamp(max=ordered.shape[1] - 1)[:, None])
    off = (k >= scores.shape[1])[:, None]
    return scores.masked_fill((scores < threshold) & ~off, -torch.inf)


def top_p(scores: Tensor, p: Tensor) -> Tensor:
    """Keep the smallest set of most probable tokens with total probability of at least `p` (B,); 1: off.

    Holtzman et al. 2020 (arXiv 1904.09751).
    """
    ordered, index = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    outside = (before >= p[:, None]) & (p < 1)[:, None]
    return scores.masked_fill(torch.zeros_like(outside).scatter_(1, index, outside), -torch.inf)


def min_p(scores: Tensor, fraction: Tensor) -> Tensor:
    """Keep tokens with probability of at least `fraction` (B,) times the top token's; 0: off.

    Nguyen et al. 2024 (arXiv 2407.01082).
    """
    threshold = scores.amax(-1, keepdim=True) + fraction.log()[:, None]
    return scores.masked_fill(scores < threshold, -torch.inf)


def typical_p(scores: Tensor, p: Tensor) -> Tensor:
    """Keep the tokens whose surprisal is closest to the entropy, up to total probability `p` (B,); 1: off.

    Ties with the last token kept are kept too (Meister et al. 2022, arXiv 2202.00666).
    """
    surprisal = -scores.log_softmax(-1)
    probability = (-surprisal).exp()
    entropy = torch.where(probability > 0, probability * surprisal, 0).sum(-1, keepdim=True)
    distance = (surprisal - entropy).abs()
    ordered, index = distance.sort(dim=-1, stable=True)
    cumulative = probability.gather(1, index).cumsum(-1)
    last = (cumulative < p[:, None]).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)
    outside = (distance > ordered.gather(1, last)) & (p < 1)[:, None]
    return scores.masked_fill(outside, -torch.inf)
