"""Speculative decoding (Leviathan et al. 2023): propose by a draft, verify by the model, accept or resample."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.generation.engine import Request, TokenEvent, start_request
from litmus.generation.logits_processors import TokenHistory
from litmus.generation.sampling import BatchSampling, probabilities
from litmus.generation.speculative.drafts import Draft, check_supports_rollback
from litmus.model import Decoder


@dataclass
class AcceptanceStats:
    """Numbers of drafted tokens, of accepted ones, and of the model's forward passes that verified them."""

    drafted: int = 0
    accepted: int = 0
    passes: int = 0

    def add_pass(self, drafted: int, accepted: int) -> None:
        """Count one more forward pass of the model."""
        self.drafted, self.accepted, self.passes = self.drafted + drafted, self.accepted + accepted, self.passes + 1

    def __str__(self) -> str:
        rate = self.accepted / self.drafted if self.drafted else 0.0
        per_pass = (self.accepted + self.passes) / self.passes if self.passes else 0.0
        return f"accepted {rate:.0%} of {self.drafted} drafted tokens; {per_pass:.2f} tokens per pass of the model"


@torch.inference_mode()
def speculate(model: Decoder, request: Request, draft: Draft, stats: AcceptanceStats) -> Iterator[TokenEvent]:
    """Continue one prompt; the text has the same distribution as without a draft (arXiv 2211.17192).

    A drafted token x is accepted with probability min(1, p(x) / q(x)), p being the model's distribution and q the
    draft's, both after the request's logits processors. The first rejected token is replaced by a sample from
    max(0, p - q); if none is rejected, one more token is sampled from p. At temperature 0 the text is the greedy one.
    """
    check_supports_rollback(model, "the model")
    prompt, cache, limit, last_reason = start_request(model, request)
    sampler = RejectionSampler(request, cache.capacity, model.recipe.vocab_size, prompt.device)
    draft.start(cache.capacity)
    tokens = list(request.tokens)
    hidden = model.hidden(prompt, cache)
    draft.commit(len(tokens), hidden)
    logits = model.head(hidden[:, -1])
    new = [sampler.sample(sampler.distributions(logits, tokens, [])[0])]
    while True:
        for number, token in enumerate(new):
            left = limit - (len(tokens) + 1 - len(request.tokens))
            if token in request.stop:
                yield TokenEvent(0, None, finish_reason="stop")
                return
            tokens.append(token)
            logprob = float(logits[number].float().log_softmax(-1)[token]) if request.logprobs else None
            yield TokenEvent(0, token, logprob, None if left else last_reason)
        if not left:
            return
        drafted, q = _propose(draft, tokens, min(draft.max_tokens, left - 1), sampler)
        hidden = model.hidden(torch.tensor([[tokens[-1], *drafted]], device=prompt.device), cache)
        logits = model.head(hidden[0])
        accepted, following = sampler.verify(drafted, q, sampler.distributions(logits, tokens, drafted))
        new = [*drafted[:accepted], following]
        kept = len(tokens) + accepted
        cache.truncate(kept)
        draft.commit(kept, hidden[:, : accepted + 1])
        stats.add_pass(len(drafted), accepted)


def _propose(
    draft: Draft, tokens: Sequence[int], number: int, sampler: RejectionSampler
) -> tuple[list[int], list[Tensor]]:
    """`number` drafted tokens and the distribution (V,) that each was sampled from."""
    drafted: list[int] = []
    q: list[Tensor] = []

    def sample(logits: Tensor) -> int:
        q.append(sampler.distributions(logits, tokens, drafted)[0])
        drafted.append(sampler.sample(q[-1]))
        return drafted[-1]

    draft.propose(tokens, number, sample)
    return drafted, q


class RejectionSampler:
    """Samples from the request's distributions by its own random numbers, and accepts or rejects drafted tokens."""

    def __init__(self, request: Request, capacity: int, vocabulary: int, device: torch.device) -> None:
        self.request = request
        self.capacity, self.vocabulary, self.device = capacity, vocabulary, device
        self.rng = random.Random(request.seed)
        self._sampling: dict[int, BatchSampling] = {}

    def distributions(self, logits: Tensor, tokens: Sequence[int], drafted: Sequence[int]) -> Tensor:
        """(n, V) in fp64 from logits (n, V); the last row follows all of `drafted`, the one before it one less, ..."""
        rows = len(logits)
        if rows not in self._sampling:
            sampling, stops = [self.request.sampling] * rows, [self.request.stop] * rows
            self._sampling[rows] = BatchSampling(sampling, self.vocabulary, self.device, stops)
        batch, history = self._sampling[rows], None
        if batch.needs_history:
            history = TokenHistory(rows, self.capacity, self.device)
            for row in range(rows):
                text = [*tokens, *drafted[: len(drafted) - rows + 1 + row]]
                history.set_row(row, text, len(text) - len(self.request.tokens))
        return probabilities(logits, batch, history)

    def sample(self, p: Tensor) -> int:
        """A token from p (V,), which need not sum to 1."""
        cumulative = p.cumsum(0)
        index = int(torch.searchsorted(cumulative, self.rng.random() * cumulative[-1], right=True))
        return min(index, int(p.nonzero()[-1]))  # rounding may leave the number just above the sum

    def verify(self, drafted: Sequence[int], q: Sequence[Tensor], p: Tensor) -> tuple[int, int]:
        """The number of accepted tokens and the token after them; q are the drafts' (V,) each, p is (n + 1, V)."""
        for index, token in enumerate(drafted):
            if self.rng.random() * float(q[index][token]) >= float(p[index, token]):
                return index, self.sample((p[index] - q[index]).clamp(min=0))
        return len(drafted), self.sample(p[-1])
