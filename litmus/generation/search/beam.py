"""Beam search: the continuations of highest total log-probability among a few beams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from litmus.errors import BadInput
from litmus.generation.engine import FinishReason, Request, TokenEvent, start_request
from litmus.model import Decoder


@dataclass(frozen=True)
class Hypothesis:
    """A finished continuation, without its stop token; `score` = sum of log p / length ** length_penalty.

    The length counts the stop token. A penalty above 0 favours long texts, since log p is negative.
    """

    tokens: list[int]
    score: float
    finish_reason: FinishReason


@torch.inference_mode()
def beam_search(
    model: Decoder,
    request: Request,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> list[Hypothesis]:
    """Up to `beams` continuations, best first; deterministic, so that the request's sampling and seed have no effect.

    The beams are the unfinished texts of highest sum of log p. A text that ends becomes a hypothesis if it is among the
    best `beams` at that step. The search ends with `early_stopping` as soon as there are `beams` hypotheses; without
    it, when in addition no beam is better, at its present length, than the worst of them.
    """
    if beams < 1:
        raise BadInput(f"beams = {beams} searches nothing; it must be at least 1")
    stop = frozenset(request.stop)
    prompt, cache, limit, last_reason = start_request(model, request, beams)
    logits = model.last_logits(prompt, cache)
    texts: list[list[int]] = [[]]
    totals = torch.zeros(1, 1, device=prompt.device)
    finished: list[Hypothesis] = []
    for length in range(1, limit + 1):
        scores = totals + logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        top = scores.flatten().topk(min(scores.numel(), (1 + len(stop)) * beams))  # enough even with all stop tokens
        unfinished: list[tuple[float, int, int]] = []
        for rank, (total, index) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
            row, token = divmod(index, scores.shape[1])
            score = total / length**length_penalty
            if token not in stop:
                unfinished.append((total, row, token))
                if length == limit and rank < beams:
                    finished.append(Hypothesis([*texts[row], token], score, last_reason))
            elif rank < beams:
                finished.append(Hypothesis(texts[row], score, "stop"))
        finished = sorted(finished, key=lambda hypothesis: -hypothesis.score)[:beams]
        unfinished = unfinished[:beams]
        if not unfinished or length == limit:
            break
        if len(finished) == beams and (
            early_stopping or unfinished[0][0] / length**length_penalty <= finished[-1].score
        ):
            break
        texts = [[*texts[row], token] for _, row, token in unfinished]
        totals = torch.tensor([[total] for total, _, _ in unfinished], device=prompt.device, dtype=scores.dtype)
        cache.reorder(torch.tensor([row for _, row, _ in unfinished], device=prompt.device))
        logits = model.last_logits(torch.tensor([[token] for _, _, token in unfinished], device=prompt.device), cache)
    return finished


def best_texts(model: Decoder, request: Request, *, n: int, **search: Any) -> Iterator[TokenEvent]:
    """The events of the `n` best hypotheses of a beam search."""
    if n > search["beams"]:
        raise BadInput(f"{n} texts of {search['beams']} beams are too many; ask for at most as many, or more beams")
    yield from hypothesis_events(beam_search(model, request, **search)[:n])


def hypothesis_events(hypotheses: list[Hypothesis]) -> Iterator[TokenEvent]:
    """The hypotheses as the events of requests 0, 1, ..."""
    for number, hypothesis in enumerate(hypotheses):
        for token in hypothesis.tokens:
            yield TokenEvent(number, token)
        yield TokenEvent(number, None, finish_reason=hypothesis.finish_reason)
