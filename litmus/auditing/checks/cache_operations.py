"""Ways of using a cache other than for one text from its begin to its end, each with the logits that it must give."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.sizes import own_lengths
from litmus.auditing.target import AuditTarget, NewCache, generator
from litmus.model import Decoder
from litmus.nn import Batch

Decoding = tuple[str, Tensor, Tensor, Tensor]
"""A description, logits (..., V), expected logits, and the position of each."""


def operations(target: AuditTarget) -> Iterator[Decoding]:
    """Two texts in turns; rows that come and go, are reused, repeated, dropped, moved on; tokens that are removed."""
    yield from texts_take_turns(target)
    if not target.lacks("rows of a cache"):
        yield from rows_come_and_go(target)
        yield from row_reused(target)
    if not target.lacks("reordered cache"):
        yield from rows_reordered(target)
    if not target.lacks("rows of a cache"):
        yield from row_slides(target)
        if supports_rollback(target.model):
            yield from truncated(target)


def chunk_sizes(length: int, sizes: list[int]) -> list[int]:
    """`sizes` repeated until they add up to `length`."""
    taken: list[int] = []
    for size in cycle(sizes):
        if sum(taken) >= length:
            return taken
        taken.append(min(size, length - sum(taken)))
    return taken


def decode(model: Decoder, tokens: Tensor, sizes: list[int], new_cache: NewCache | None = None) -> Tensor:
    """Logits of all tokens, decoded in chunks with a cache that has spare capacity."""
    cache = (new_cache or model.new_cache)(len(tokens), tokens.shape[1] + 5)
    return torch.cat([model(chunk, cache) for chunk in tokens.split(sizes, dim=1)], dim=1)


MAX_BEGUN = 150
"""Tokens in a cache before something is done with it, at most: beyond block edges at 64, 100 and 128."""


def begun_lengths(target: AuditTarget, following: int) -> list[int]:
    """Lengths of text in a cache before something is done with it: a short one, and those beyond stated numbers."""
    most = min(target.reach, MAX_BEGUN) - following
    stated = [length + 3 for length in own_lengths(target, most - 3) if length > 12]
    return [length for length in (min(12, most), most, *stated[: target.pick(0, 3)]) if length > 1]


def texts_take_turns(target: AuditTarget) -> Iterator[Decoding]:
    """Two texts are decoded in turns, each with a cache of its own; one begins where the other has just ended."""
    model = target.model
    texts = [target.tokens(1, target.length(length), seed=20 + length) for length in (9, 10)]
    caches = [model.new_cache(1, text.shape[1]) for text in texts]
    parts = [text.split([text.shape[1] - 4, 1, 1, 2], dim=1) for text in texts]
    decoded = [
        [model(chunk, cache) for chunk, cache in zip(pair, caches, strict=True)] for pair in zip(*parts, strict=True)
    ]
    for text, logits in zip(texts, zip(*decoded, strict=True), strict=True):
        yield "decoding two texts in turns", torch.cat(logits, 1), model(text), torch.arange(text.shape[1])


def rows_come_and_go(target: AuditTarget) -> Iterator[Decoding]:
    """Rows that start late, pause and end early: at each step only some rows have a token."""
    model, steps = target.model, target.length(24)
    present = torch.rand(3, steps, generator=generator(13)) < 0.6
    present[0, :5], present[1, -6:], present[2, :] = False, False, True
    tokens = target.tokens(3, steps, seed=14)
    cache = model.new_cache(3, steps)
    steps_alone = [Batch(tokens[:, t : t + 1], padding_mask=present[:, t : t + 1]) for t in range(steps)]
    logits = torch.cat([model(batch, cache) for batch in steps_alone], dim=1)
    expected = torch.cat([model(tokens[row][present[row]][None])[0] for row in range(3)])
    positions = torch.cat([torch.arange(int(present[row].sum())) for row in range(3)])
    yield "decoding rows that start late, pause and end early", logits[present], expected, positions


def rows_reordered(target: AuditTarget) -> Iterator[Decoding]:
    """Rows are repeated and dropped, as beam search does, and each continues with tokens of its own."""
    model = target.model
    of_any_number = [[2, 0, 2, 2], [1, 3, 0, 0], [1, 3]]
    beams = [[2, 0, 2], [1, 1, 0], [0, 2, 1]]  # a cache whose rows have one length is made for those of beam search
    orders = [torch.tensor(order) for order in (beams if target.lacks("rows of a cache") else of_any_number)]
    for begun in begun_lengths(target, following=3 * len(orders)):
        tokens = target.tokens(3, begun, seed=16)
        cache = model.new_cache(3, begun + 3 * len(orders))
        model(tokens, cache)
        for step, kept in enumerate(orders):
            cache.reorder(kept)
            following = target.tokens(len(kept), 3, seed=17 + step)
            logits = torch.cat([model(chunk, cache) for chunk in following.split([1, 2], dim=1)], dim=1)
            tokens = torch.cat((tokens[kept], following), 1)
            expected = model(tokens)[:, -3:]
            positions = torch.arange(tokens.shape[1] - 3, tokens.shape[1]).repeat(len(kept))
            how = "decoding after rows were repeated and dropped"
            yield how, logits.flatten(0, 1), expected.flatten(0, 1), positions


def row_slides(target: AuditTarget) -> Iterator[Decoding]:
    """One row is emptied and gets the last half of its text again, as the engine does at the end of the context."""
    model = target.model
    for begun in begun_lengths(target, following=4):
        length, kept = begun + 4, begun // 2
        tokens, following = target.tokens(2, begun, seed=18), target.tokens(2, 4, seed=19)
        cache = model.new_cache(2, length)
        model(tokens, cache)
        cache.reset_rows(slice(1, 2))
        row = cache.slice_rows(1, 2)
        row.start = row.used = 0
        model(tokens[1:, -kept:], row)
        cache.start, cache.used = None, begun
        logits = torch.cat([model(token, cache) for token in following.split(1, dim=1)], dim=1)
        one = model(torch.cat((tokens[:1], following[:1]), 1))[0, begun:]
        other = model(torch.cat((tokens[1:, -kept:], following[1:]), 1))[0, kept:]
        positions = torch.cat((torch.arange(begun, length), torch.arange(kept, kept + 4)))
        yield "decoding after a row slid on in its text", logits.flatten(0, 1), torch.cat((one, other)), positions


ROLLBACK = "decoding after removal of"
MAX_TRUNCATED = 600


def supports_rollback(model: Any) -> bool:
    """Whether every layer says that the last tokens can be removed from its cache."""
    return bool(getattr(model, "supports_rollback", False))


def truncated(target: AuditTarget) -> Iterator[Decoding]:
    """The last tokens are removed from the cache and others follow, as in speculative decoding."""
    model = target.model
    stated = [number + 3 for number in own_lengths(target, min(target.reach, MAX_TRUNCATED) - 12) if number > 20]
    for length in [target.length(20), *stated[: target.pick(3, 8)]]:
        for removed in (1, 4, length // 2):
            tokens = target.text(length)
            cache = model.new_cache(1, length + 8)
            sizes = [length - 3, 1, 1, 1]
            for chunk in tokens.split(sizes, dim=1):
                model(chunk, cache)
            cache.truncate(length - removed)
            tokens = torch.cat((tokens[:, : length - removed], target.tokens(1, 4, seed=23)), 1)
            logits = torch.cat([model(chunk, cache) for chunk in tokens[:, -4:].split([1, 1, 2], dim=1)], dim=1)
            expected, positions = model(tokens)[:, -4:], torch.arange(tokens.shape[1])[-4:]
            yield f"{ROLLBACK} the last {removed} of {length} tokens", logits, expected, positions


def row_reused(target: AuditTarget) -> Iterator[Decoding]:
    """A row is reset and continues with a new text while another row goes on."""
    model = target.model
    for half in begun_lengths(target, following=10):
        length = half + 10
        tokens = target.tokens(3, length, seed=15)
        cache = model.new_cache(2, length)
        model(tokens[:2, :half], cache)
        cache.reset_rows(torch.tensor([False, True]))
        following = torch.stack((tokens[0, half:], tokens[2, :10]))
        logits = torch.cat([model(chunk, cache) for chunk in following.split(chunk_sizes(10, [1, 3]), dim=1)], dim=1)
        expected = torch.cat((model(tokens[:1])[0, half:], model(tokens[2:, :10])[0]))
        positions = torch.cat((torch.arange(half, length), torch.arange(10)))
        yield "reusing a row for another text", logits.flatten(0, 1), expected, positions
