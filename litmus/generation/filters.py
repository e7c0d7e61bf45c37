"""The filters between logits and the draw. Each maps scores (B, V) to scores, with one setting per row (B,).

A token that may not be drawn gets -inf. Every setting has a value that changes nothing, so that rows with and without
a filter share one batch. Filters that look back read the `History` of their rows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor


class History:
    """The tokens that the model has before it in each row: `tokens` (B, C), of which `lengths` (B,) are real.

    `generated` (B,) counts all that were generated; those that are still there stand at the end.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.tokens = torch.zeros(rows, capacity, dtype=torch.long, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.generated = torch.zeros(rows, dtype=torch.long, device=device)

    def begin(self, row: int, tokens: Sequence[int], generated: int = 0) -> None:
        """Let `row` hold these tokens, after `generated` ones were generated."""
        self.tokens[row, : len(tokens)] = torch.tensor(tokens, device=self.tokens.device)
        self.lengths[row], self.generated[row] = len(tokens), generated

    def append(self, new: Tensor, real: Tensor) -> None:
        """Add one token (B,) to the rows where `real` (B,) is True."""
        place = self.lengths.clamp(max=self.tokens.shape[1] - 1)[:, None]  # the others write where their next will be
        self.tokens.scatter_(1, place, new[:, None])
        self.lengths += real
        self.generated += real

    def part(self, rows: int) -> History:
        """The first `rows` rows: the same tensors, seen in part."""
        part = copy.copy(self)
        part.tokens, part.lengths, part.generated = self.tokens[:rows], self.lengths[:rows], self.generated[:rows]
        return part

    def counts(self, vocabulary: int, *, generated_only: bool) -> Tensor:
        """How often each token occurs in each row, (B, V)."""
        slots = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        counted = slots < self.lengths[:, None]
        if generated_only:
            counted &= slots >= (self.lengths - self.generated)[:, None]
        zeros = torch.zeros(len(self.tokens), vocabulary, dtype=torch.long, device=self.tokens.device)
        return zeros.scatter_add_(1, self.tokens, counted.long())

    def last(self, number: int) -> tuple[Tensor, Tensor]:
        """The last `number` tokens of each row and which of them exist, both (B, number)."""
        places = self.lengths[:, None] + torch.arange(-number, 0, device=self.tokens.device)
        return self.tokens.gather(1, places.clamp(min=0)), places >= 0


def repetition(scores: Tensor, penalty: Tensor, history: History) -> Tensor:
    """Scores of tokens in the row so far, divided by `penalty` where positive and times it where negative; 1: off.

    Keskar et al. 2019, CTRL (arXiv 1909.05858).
    """
    seen = history.counts(scores.shape[1], generated_only=False) > 0
    factor = penalty[:, None].to(scores.dtype)
    return torch.where(seen, torch.where(scores > 0, scores / factor, scores * factor), scores)


def presence(scores: Tensor, penalty: Tensor, history: History) -> Tensor:
    """Scores minus `penalty` where a token was generated at all; 0: off."""
    return scores - (history.counts(scores.shape[1], generated_only=True) > 0) * penalty[:, None].to(scores.dtype)


def frequency(scores: Tensor, penalty: Tensor, history: History) -> Tensor:
    """Scores minus `penalty` for each time a token was generated; 0: off."""
    return scores - history.counts(scores.shape[1], generated_only=True) * penalty[:, None].to(scores.dtype)


def repeated_ngrams(scores: Tensor, size: int, concerned: Tensor, history: History) -> Tensor:
    """Forbid tokens that would repeat an n-gram of `size` tokens, in rows where `concerned` (B,) is True."""
    if size > history.tokens.shape[1]:
        return scores
    windows = history.tokens.unfold(1, size, 1)  # (B, W, size)
    begun, _ = history.last(size - 1) if size > 1 else (windows[:, :0, 0], None)
    ends = torch.arange(size, history.tokens.shape[1] + 1, device=scores.device)
    repeats = (windows[..., :-1] == begun[:, None]).all(-1) & (ends <= history.lengths[:, None]) & concerned[:, None]
    return _forbidden(scores, windows[..., -1], repeats)


def bad_words(scores: Tensor, row: Tensor, words: Tensor, width: Tensor, history: History) -> Tensor:
    """Forbid the last token of each word where the tokens before it have just been written.

    N words of one or more tokens: `words` (N, L) filled up on the left, of which the last `width` (N,) are real;
    `row` (N,) is the batch row that each is forbidden in.
    """
    length = words.shape[1] - 1
    matches = torch.ones(len(words), dtype=torch.bool, device=scores.device)
    if length:
        last, exist = history.last(length)
        needed = torch.arange(length, device=scores.device) >= length + 1 - width[:, None]
        matches = (~needed | ((last[row] == words[:, :-1]) & exist[row])).all(1)
    closed = torch.zeros_like(scores)
    closed.index_put_((row, words[:, -1]), torch.where(matches, -torch.inf, 0.0).to(scores.dtype), accumulate=True)
    return scores + closed


def too_early(scores: Tensor, least: Tensor, ends: Tensor, history: History) -> Tensor:
    """Forbid what `ends` (B, V) marks as ending the row until `least` (B,) tokens are generated."""
    early = history.generated < least
    return scores.masked_fill(ends & early[:, None], -torch.inf)


def top_k(scores: Tensor, k: Tensor, largest: int) -> Tensor:
    """Keep the `k` (B,) likeliest and what ties with the k-th; V or more: off. `largest` bounds k, on the host."""
    ordered = scores.topk(min(largest, scores.shape[1]), dim=-1).values
    least = ordered.gather(1, (k - 1).clamp(max=ordered.shape[1] - 1)[:, None])
    off = (k >= scores.shape[1])[:, None]
    return scores.masked_fill((scores < least) & ~off, -torch.inf)


def top_p(scores: Tensor, mass: Tensor) -> Tensor:
    """Keep the smallest set of likeliest tokens with at least `mass` (B,); 1: off (Holtzman et al. 2020)."""
    ordered, index = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    outside = (before >= mass[:, None]) & (mass < 1)[:, None]
    return scores.masked_fill(torch.zeros_like(outside).scatter_(1, index, outside), -torch.inf)


def min_p(scores: Tensor, share: Tensor) -> Tensor:
    """Keep tokens at least `share` (B,) times as likely as the likeliest; 0: off (Nguyen et al. 2024, 2407.01082)."""
    least = scores.amax(-1, keepdim=True) + share.log()[:, None]
    return scores.masked_fill(scores < least, -torch.inf)


def typical(scores: Tensor, mass: Tensor) -> Tensor:
    """Keep the tokens whose surprise is closest to the entropy, until they have `mass` (B,); 1: off.

    Those that tie with the last one kept stay (Meister et al. 2022, arXiv 2202.00666).
    """
    surprise = -scores.log_softmax(-1)
    p = (-surprise).exp()
    entropy = torch.where(p > 0, p * surprise, 0).sum(-1, keepdim=True)
    distance = (surprise - entropy).abs()
    ordered, index = distance.sort(dim=-1, stable=True)
    reached = p.gather(1, index).cumsum(-1)
    last = (reached < mass[:, None]).sum(-1, keepdim=True).clamp(max=scores.shape[1] - 1)
    outside = (distance > ordered.gather(1, last)) & (mass < 1)[:, None]
    return scores.masked_fill(outside, -torch.inf)


def _forbidden(scores: Tensor, tokens: Tensor, where: Tensor) -> Tensor:
    """Scores with -inf at the tokens (B, N) marked in `where` (B, N)."""
    marks = torch.zeros(scores.shape, dtype=torch.long, device=scores.device).scatter_add_(1, tokens, where.long())
    return scores.masked_fill(marks > 0, -torch.inf)
