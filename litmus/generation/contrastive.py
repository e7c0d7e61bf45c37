"""Contrastive search: among the likeliest tokens, the one that repeats least of what the text has said."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.generation.engine import Event, Finish, Request, check_request
from litmus.generation.memory import check_room
from litmus.model import Decoder


@torch.inference_mode()
def contrastive_search(model: Decoder, request: Request, *, alpha: float = 0.6, candidates: int = 4) -> Iterator[Event]:
    """The token v that maximizes (1 - alpha) · p(v) - alpha · max over earlier tokens j of cos(h_v, h_j), step by step.

    v is one of the `candidates` likeliest tokens, h_v the vector from which the head would predict what follows v
    (Su et al. 2022, arXiv 2202.06417). Nothing is drawn, so the request's sampling and seed have no effect; alpha = 0
    takes the likeliest token. A step feeds all candidates at once, each in a row of its own.
    """
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha = {alpha} is no share; contrastive search takes one from 0 to 1")
    if candidates < 1:
        raise BadInput(f"{candidates} candidates leave nothing to choose from; at least 1 is valid")
    prompt, context, vocabulary = list(request.tokens), model.recipe.context, model.recipe.vocab_size
    check_request(request, 0, context, context, vocabulary)
    candidates = min(candidates, vocabulary)
    limit = min(request.max_new_tokens, context - len(prompt))
    capacity = len(prompt) + limit
    check_room(model, candidates, capacity)
    model.eval()
    device = model.embedding.weight.device
    cache = model.new_cache(1, capacity)
    vectors = model.hidden(torch.tensor([prompt], device=device), cache)
    earlier = vectors.new_zeros(capacity, vectors.shape[-1])  # the directions of the text's vectors
    earlier[: len(prompt)] = F.normalize(vectors[0], dim=-1)
    last = vectors[0, -1]
    cache.reorder(torch.zeros(candidates, dtype=torch.long, device=device))
    for length in range(1, limit + 1):
        logits = model.head(last)
        p, tokens = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1).topk(candidates)
        vectors = model.hidden(tokens[:, None], cache)[:, 0]  # (candidates, dim)
        directions = F.normalize(vectors, dim=-1)
        place = len(prompt) + length - 1
        alike = (directions @ earlier[:place].T).amax(1)
        best = ((1 - alpha) * p - alpha * alike).argmax()
        earlier[place], last = directions[best], vectors[best]
        cache.reorder(best.expand(candidates))
        token = int(tokens[best])
        if token in request.stop:
            yield Event(0, None, finished="stop")
            return
        ending: Finish = "length" if limit == request.max_new_tokens else "context"
        logprob = float(p[best].log()) if request.logprobs else None
        yield Event(0, token, logprob, ending if length == limit else None)
