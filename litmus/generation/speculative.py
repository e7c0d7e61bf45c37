"""Speculative decoding: tokens are drafted cheaply, and the model checks several of them in one pass."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.generation.drafts import Draft, check_rewinds
from litmus.generation.engine import Event, Finish, Request, check_request
from litmus.generation.filters import History
from litmus.generation.memory import check_room
from litmus.generation.sampling import Settings, probabilities
from litmus.model import Decoder


@dataclass
class Tally:
    """How drafting went: tokens drafted, those of them accepted, and the passes of the model that checked them."""

    drafted: int = 0
    accepted: int = 0
    passes: int = 0

    def count(self, drafted: int, accepted: int) -> None:
        """One more pass, which accepted so many of the drafted tokens."""
        self.drafted, self.accepted, self.passes = self.drafted + drafted, self.accepted + accepted, self.passes + 1

    def __str__(self) -> str:
        share = self.accepted / self.drafted if self.drafted else 0.0
        each = (self.accepted + self.passes) / self.passes if self.passes else 0.0
        return f"accepted {share:.0%} of {self.drafted} drafted tokens; {each:.2f} tokens per pass of the model"


@torch.inference_mode()
def speculate(model: Decoder, request: Request, draft: Draft, tally: Tally) -> Iterator[Event]:
    """Continue one prompt; the text has the distribution that decoding token by token has (Leviathan et al. 2023).

    A drafted token x is accepted with probability min(1, p(x) / q(x)), p being the model's distribution and q the
    draft's, both after the request's filters; in place of the first refused one, a token is drawn from max(0, p - q),
    and behind the last accepted one, one more from p. At temperature 0 that is the model's likeliest token throughout.
    arXiv 2211.17192.
    """
    prompt, context = list(request.tokens), model.recipe.context
    check_request(request, 0, context, context, model.recipe.vocab_size)
    check_rewinds(model, "the model")
    limit = min(request.max_new_tokens, context - len(prompt))
    capacity = len(prompt) + limit
    check_room(model, 1, capacity)
    model.eval()
    device = model.embedding.weight.device
    choice = Choice(request, capacity, model.recipe.vocab_size, device)
    cache = model.new_cache(1, capacity)
    draft.begin(capacity)
    hidden = model.hidden(torch.tensor([prompt], device=device), cache)
    draft.settle(len(prompt), hidden)
    logits = model.head(hidden[:, -1])
    new = [choice.draw(choice.distributions(logits, prompt, [])[0])]
    tokens = prompt
    while True:
        for number, token in enumerate(new):
            left = limit - (len(tokens) + 1 - len(request.tokens))
            if token in request.stop:
                yield Event(0, None, finished="stop")
                return
            tokens.append(token)
            ending: Finish = "length" if limit == request.max_new_tokens else "context"
            logprob = float(logits[number].float().log_softmax(-1)[token]) if request.logprobs else None
            yield Event(0, token, logprob, None if left else ending)
        if not left:
            return
        drafted, q = _drafted(draft, tokens, min(draft.ahead, left - 1), choice)
        hidden = model.hidden(torch.tensor([[tokens[-1], *drafted]], device=device), cache)
        logits = model.head(hidden[0])
        accepted, behind = choice.verify(drafted, q, choice.distributions(logits, tokens, drafted))
        new = [*drafted[:accepted], behind]
        kept = len(tokens) + accepted
        cache.truncate(kept)
        draft.settle(kept, hidden[:, : accepted + 1])
        tally.count(len(drafted), accepted)


def _drafted(draft: Draft, tokens: Sequence[int], number: int, choice: Choice) -> tuple[list[int], list[Tensor]]:
    """`number` further tokens and the distribution (V,) that each was drawn from."""
    drafted: list[int] = []
    q: list[Tensor] = []

    def draw(logits: Tensor) -> int:
        q.append(choice.distributions(logits, tokens, drafted)[0])
        drafted.append(choice.draw(q[-1]))
        return drafted[-1]

    draft.propose(tokens, number, draw)
    return drafted, q


class Choice:
    """How the request chooses tokens: its distributions, its random numbers, and what it accepts of a draft."""

    def __init__(self, request: Request, capacity: int, vocabulary: int, device: torch.device) -> None:
        self.request = request
        self.capacity, self.vocabulary, self.device = capacity, vocabulary, device
        self.random = random.Random(request.seed)
        self._settings: dict[int, Settings] = {}

    def distributions(self, logits: Tensor, tokens: Sequence[int], drafted: Sequence[int]) -> Tensor:
        """(n, V) in fp64 from logits (n, V); the last row follows all of `drafted`, the one above one less, ..."""
        rows = len(logits)
        if rows not in self._settings:
            sampling, ends = [self.request.sampling] * rows, [self.request.stop] * rows
            self._settings[rows] = Settings(sampling, self.vocabulary, self.device, ends)
        settings, history = self._settings[rows], None
        if settings.looks_back:
            history = History(rows, self.capacity, self.device)
            for row in range(rows):
                text = [*tokens, *drafted[: len(drafted) - rows + 1 + row]]
                history.begin(row, text, len(text) - len(self.request.tokens))
        return probabilities(logits, settings, history)

    def draw(self, p: Tensor) -> int:
        """A token from p (V,), which need not sum to 1."""
        reached = p.cumsum(0)
        place = int(torch.searchsorted(reached, self.random.random() * reached[-1], right=True))
        return min(place, int(p.nonzero()[-1]))  # rounding may leave the number just above the sum

    def verify(self, drafted: Sequence[int], q: Sequence[Tensor], p: Tensor) -> tuple[int, int]:
        """How many drafted tokens are accepted, and the token that follows them; q holds (V,) each, p is (n + 1, V)."""
        for place, token in enumerate(drafted):
            if self.random.random() * float(q[place][token]) >= float(p[place, token]):
                return place, self.draw((p[place] - q[place]).clamp(min=0))
        return len(drafted), self.draw(p[-1])
