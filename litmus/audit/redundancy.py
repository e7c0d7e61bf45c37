"""Cached numbers that say nothing new: buffers of low rank, and slots that no prediction depends on."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.audit.localize import described
from litmus.audit.target import AuditTarget, generator
from litmus.model import Decoder
from litmus.nn import Cache

FULL = 0.9
"""Share of the possible rank that counts as full: norms that subtract a mean take one dimension away."""

MOST_TOKENS = 700
Waste = tuple[str, str, float]
"""What is wasted, where, and how many times more is held than needed."""


def low_rank_buffers(target: AuditTarget) -> Iterator[Waste]:
    """Buffers whose numbers per token lie in far fewer dimensions than they could, over many random tokens.

    A cached vector of N numbers that comes from a vector of `dim` numbers can have min(N, dim) dimensions. If keys of N
    numbers keep to r of them, r numbers per token would do (as latent attention does), for every text.
    """
    model = target.model
    empty = model.new_cache(1, 8), model.new_cache(1, 9)
    widest = max((buffer[0].numel() // 8 for layer in empty[0].layers for buffer in layer.values()), default=0)
    tokens = min(target.longest, MOST_TOKENS, int(1.3 * min(widest, target.recipe.dim)) + 16)
    if widest == 0 or tokens < 8:
        return
    cache = model.new_cache(1, tokens)
    with torch.no_grad():
        model(target.tokens(1, tokens, seed=120), cache)
    for number, layer in enumerate(cache.layers):
        for name, buffer in layer.items():
            if not per_token(empty[0].layers[number][name], empty[1].layers[number][name]):
                continue
            content = buffer[0].flatten(1).double()  # a row per slot: a bounded cache has fewer than tokens
            content = content[content.any(1)]
            possible = min(content.shape[1], target.recipe.dim, target.recipe.vocab_size)
            if content.shape[0] < 1.2 * possible:
                continue  # too few tokens to tell
            rank = int(torch.linalg.matrix_rank(content, rtol=1e-9))
            if rank < FULL * possible:
                yield (
                    f"{name!r} caches {content.shape[1]} numbers per token that lie in {rank} dimensions",
                    described(model, f"layers.{number}"),
                    content.shape[1] / max(rank, 1),
                )
                return


def per_token(at_8: Tensor, at_9: Tensor) -> bool:
    """Whether a buffer has one slot per token of capacity, in its second dimension."""
    return at_8.ndim >= 2 and at_8.shape[1] == 8 and at_9.shape[1] == 9 and at_8[0].numel() * 9 == at_9[0].numel() * 8


def idle_slots(target: AuditTarget) -> Iterator[Waste]:
    """Slots of old tokens that can be overwritten without any effect on the tokens that follow."""
    tokens = min(target.longest - 4, max(target.recipe.context, 64), target.pick(300, 1100))
    if tokens < 16:
        return
    text = target.tokens(1, tokens + 4, seed=121)
    # In both models: where attention is very sharp, a weight may be too small to change anything.
    idle = unread(target.model, text)
    idle = [place for place in idle if place in unread(target.unperturbed, text)] if idle else []
    for number, name in idle[:1]:
        yield (
            f"the oldest {tokens // 4} of {tokens} slots of {name!r} are never read again, and still held",
            described(target.model, f"layers.{number}"),
            4 / 3,
        )


def unread(model: Decoder, text: Tensor) -> list[tuple[int, str]]:
    """The (layer, buffer) of which the oldest quarter of slots does not matter for the last four tokens of `text`."""
    prompt, following = text[:, :-4], text[:, -4:]
    cache = model.new_cache(1, text.shape[1])
    found = []
    with torch.no_grad():
        model(prompt, cache)
        expected = continued(model, following, cache)
        for number, layer in enumerate(cache.layers):
            for name, buffer in layer.items():
                if buffer.ndim < 2 or buffer.shape[1] != cache.capacity or not buffer.numel():
                    continue
                changed = copy.deepcopy(cache)
                slots = changed.layers[number][name][:, : prompt.shape[1] // 4]
                slots += torch.randn(slots.shape, generator=generator(122), dtype=slots.dtype)
                if torch.equal(continued(model, following, changed), expected):
                    found.append((number, name))
    return found


def continued(model: Decoder, following: Tensor, cache: Cache) -> Tensor:
    """Logits of the tokens that follow, decoded one by one from a copy of the cache."""
    cache = copy.deepcopy(cache)
    return torch.cat([model(token, cache) for token in following.split(1, dim=1)], dim=1)
