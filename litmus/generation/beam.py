"""Beam search: the likeliest continuations of a prompt, as far as a few beams can see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from litmus.errors import BadInput
from litmus.generation.engine import Event, Finish, Request, check_request
from litmus.generation.memory import check_room
from litmus.model import Decoder


@dataclass(frozen=True)
class Hypothesis:
    """A continuation without the stop token that may have ended it; `score` = sum of log p / length ** length_penalty.

    The length counts the stop token. A penalty above 0 favours long texts, since log p is negative.
    """

    tokens: list[int]
    score: float
    finished: Finish


@torch.inference_mode()
def beam_search(
    model: Decoder,
    request: Request,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> list[Hypothesis]:
    """Up to `beams` continuations, best first; nothing is drawn, so the request's sampling and seed have no effect.

    The beams are the texts of highest sum of log p that go on. A text that ends becomes a hypothesis if it is among
    the best `beams` at that moment. The search ends with `early_stopping` as soon as there are `beams` hypotheses, and
    without it when also no beam is better, at its present length, than the worst of them.
    """
    if beams < 1:
        raise BadInput(f"beams = {beams} searches nothing; it must be at least 1")
    prompt, stop, context = list(request.tokens), frozenset(request.stop), model.recipe.context
    check_request(request, 0, context, context, model.recipe.vocab_size)
    limit = min(request.max_new_tokens, context - len(prompt))
    check_room(model, beams, len(prompt) + limit)
    model.eval()
    device = model.embedding.weight.device
    cache = model.new_cache(1, len(prompt) + limit)
    logits = model.last_logits(torch.tensor([prompt], device=device), cache)
    texts: list[list[int]] = [[]]
    totals = torch.zeros(1, 1, device=device)
    finished: list[Hypothesis] = []
    for length in range(1, limit + 1):
        reached = totals + logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        best = reached.flatten().topk(min(reached.numel(), (1 + len(stop)) * beams))  # enough, if all stops are there
        going: list[tuple[float, int, int]] = []
        for rank, (total, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            row, token = divmod(index, reached.shape[1])
            score = total / length**length_penalty
            if token not in stop:
                going.append((total, row, token))
                if length == limit and rank < beams:
                    ending: Finish = "length" if limit == request.max_new_tokens else "context"
                    finished.append(Hypothesis([*texts[row], token], score, ending))
            elif rank < beams:
                finished.append(Hypothesis(texts[row], score, "stop"))
        finished = sorted(finished, key=lambda hypothesis: -hypothesis.score)[:beams]
        going = going[:beams]
        full = len(finished) == beams
        if not going or length == limit:
            break
        if full and (early_stopping or going[0][0] / length**length_penalty <= finished[-1].score):
            break
        texts = [[*texts[row], token] for _, row, token in going]
        totals = torch.tensor([[total] for total, _, _ in going], device=device, dtype=reached.dtype)
        cache.reorder(torch.tensor([row for _, row, _ in going], device=device))
        logits = model.last_logits(torch.tensor([[token] for _, _, token in going], device=device), cache)
    return finished


def best_texts(model: Decoder, request: Request, *, best: int, **search: Any) -> Iterator[Event]:
    """The `best` hypotheses of a beam search as the events of rows 0, 1, ..."""
    if best > search["beams"]:
        raise BadInput(f"{best} texts of {search['beams']} beams are too many; ask for at most as many, or more beams")
    yield from beam_events(beam_search(model, request, **search)[:best])


def beam_events(hypotheses: list[Hypothesis]) -> Iterator[Event]:
    """The hypotheses as the events of rows 0, 1, ..."""
    for number, hypothesis in enumerate(hypotheses):
        for token in hypothesis.tokens:
            yield Event(number, token)
        yield Event(number, None, finished=hypothesis.finished)
