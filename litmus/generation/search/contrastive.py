"""Contrastive search: among the most probable tokens, the one least similar to the text so far."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.generation.engine import Request, TokenEvent, start_request
from litmus.model import Decoder


@torch.inference_mode()
def contrastive_search(
    model: Decoder, request: Request, *, alpha: float = 0.6, candidates: int = 4
) -> Iterator[TokenEvent]:
    """At each step, the token v that maximizes (1 - alpha) · p(v) - alpha · max over earlier tokens j of cos(h_v, h_j).

    v is one of the `candidates` most probable tokens, h_v the last hidden state after v (Su et al. 2022, arXiv
    2202.06417). Deterministic, so that the request's sampling and seed have no effect; alpha = 0 is greedy. A step
    feeds all candidates at once, each in a cache row of its own.
    """
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha = {alpha} is not valid; contrastive search takes a number from 0 to 1")
    if candidates < 1:
        raise BadInput(f"{candidates} candidates leave nothing to choose from; at least 1 is valid")
    candidates = min(candidates, model.recipe.vocab_size)
    prompt, cache, limit, last_reason = start_request(model, request, candidates)
    prompt_length = prompt.shape[1]
    hidden = model.hidden(prompt, cache)
    directions = hidden.new_zeros(prompt_length + limit, hidden.shape[-1])  # normalized hidden states of the text
    directions[:prompt_length] = F.normalize(hidden[0], dim=-1)
    last = hidden[0, -1]
    cache.reorder(torch.zeros(candidates, dtype=torch.long, device=prompt.device))
    for position in range(prompt_length, prompt_length + limit):
        logits = model.head(last)
        p, tokens = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1).topk(candidates)
        hidden = model.hidden(tokens[:, None], cache)[:, 0]  # (candidates, dim)
        normalized = F.normalize(hidden, dim=-1)
        similarity = (normalized @ directions[:position].T).amax(1)
        best = ((1 - alpha) * p - alpha * similarity).argmax()
        directions[position], last = normalized[best], hidden[best]
        cache.reorder(best.expand(candidates))
        token = int(tokens[best])
        if token in request.stop:
            yield TokenEvent(0, None, finish_reason="stop")
            return
        logprob = float(p[best].log()) if request.logprobs else None
        yield TokenEvent(0, token, logprob, last_reason if position == prompt_length + limit - 1 else None)
