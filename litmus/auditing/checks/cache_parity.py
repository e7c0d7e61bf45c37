"""Cache parity: decoding through the cache gives what the full forward pass gives, however the tokens come in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, differences
from litmus.auditing.hooks import first_difference_in_decoding
from litmus.auditing.target import AuditTarget, generator
from litmus.model import Decoder

LENGTHS = (41, 70)
EDGE = 131
"""Long enough to decode past block edges at 64, 100 and 128."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    prompt = prompt_matters(target)
    yield prompt
    worst, faults, ways = 0.0, 0, 0
    for way, logits, expected, positions in passes(target):
        moved = differences(logits, expected)
        worst, ways = max(worst, float(moved.max())), ways + 1
        if float(moved.max()) > target.rounding:
            position = int(positions[int((moved > target.rounding).nonzero()[0, -1])])
            part = "" if faults else layer_at_fault(target, position)
            faults += 1
            yield Evidence(
                f"{way} differs from the full forward pass",
                fault=True,
                measured=float(moved.max()),
                tolerance=target.rounding,
                where=f"first at position {position}{part and f', {part}'}",
            )
        if faults >= 3:
            return
    if not faults:
        yield Evidence(f"{ways} ways of decoding equal the full pass", measured=worst, tolerance=target.rounding)


def layer_at_fault(target: AuditTarget, position: int) -> str:
    """The part that begins to differ when tokens up to `position` are decoded one by one, if that shows it."""
    tokens = target.tokens(1, position + 1, seed=9)
    return first_difference_in_decoding(target.model, tokens, position + 1, target.rounding)


def prompt_matters(target: AuditTarget) -> Evidence:
    """Two prompts, then the same token twice: the predictions must differ."""
    length = target.length(12)
    one = target.tokens(1, length, seed=3)
    other = target.other_tokens(one)
    same = target.tokens(1, 2, seed=4)
    with torch.no_grad():
        logits = []
        for prompt in (one[:, :-2], other[:, :-2]):
            cache = target.model.new_cache(1, length)
            target.model(prompt, cache)
            logits.append(torch.cat([target.model(token, cache) for token in same.split(1, dim=1)], 1))
    changed = float(differences(*logits).min())
    if changed > target.rounding:
        return Evidence("two prompts give two continuations")
    return Evidence(
        "after two different prompts the same decoded token gets the same logits: the prompt is not in the cache",
        fault=True,
        measured=changed,
        mark="decoding ignores the prompt",
        meaning="Generated text does not depend on the question; every figure of decoding describes another model "
        "than the one that was trained.",
    )


Pass = tuple[str, Tensor, Tensor, Tensor]
"""What was done, the logits it gave (..., V), the expected ones, and the position of each."""


def passes(target: AuditTarget) -> Iterator[Pass]:
    """Every way in which tokens may come in."""
    model = target.model
    with torch.no_grad():
        length = target.length(target.pick(*LENGTHS))
        tokens = target.tokens(2, length, seed=9)
        full, positions = model(tokens), torch.arange(length)
        yield "decoding token by token", in_chunks(model, tokens, [1] * length), full, positions
        for size in target.pick((3,), (2, 3, 7, 16)):
            yield f"prefill in chunks of {size}", in_chunks(model, tokens, chunks(length, [size])), full, positions
        mixed = chunks(length, [1, 2, 3, 7])
        yield "decoding in chunks of 1, 2, 3 and 7", in_chunks(model, tokens, mixed), full, positions
        for prefill in target.pick((length // 2,), (1, 16, length // 2, length - 1)):
            sizes = [prefill, *[1] * (length - prefill)]
            yield f"a prefill of {prefill} tokens, then single ones", in_chunks(model, tokens, sizes), full, positions
        yield from ragged(target)
        yield from joining(target)
        yield from reused(target)
        longer = target.length(EDGE)
        if longer > length:
            tokens = target.tokens(1, longer, seed=10)
            sizes = chunks(longer, [longer // 2 - 4, *[1] * 6, 29, *[1] * 8, longer])
            yield (
                "prefill, decoding and prefill again past block edges",
                in_chunks(model, tokens, sizes),
                model(tokens),
                torch.arange(longer),
            )


def chunks(length: int, sizes: list[int]) -> list[int]:
    """`sizes` over and over, until they make `length`."""
    taken: list[int] = []
    for size in cycle(sizes):
        if sum(taken) >= length:
            return taken
        taken.append(min(size, length - sum(taken)))
    return taken


def in_chunks(model: Decoder, tokens: Tensor, sizes: list[int]) -> Tensor:
    """Logits of all tokens, given to the cache in chunks; the cache has room to spare."""
    cache = model.new_cache(len(tokens), tokens.shape[1] + 5)
    return torch.cat([model(chunk, cache) for chunk in tokens.split(sizes, dim=1)], dim=1)


def ragged(target: AuditTarget) -> Iterator[Pass]:
    """Rows of different lengths, padded on either side, prefilled together and then decoded together."""
    model = target.model
    lengths = [target.length(n) for n in (19, 3, 12, 1)]
    width, extra = max(lengths), min(6, target.longest - max(lengths))
    rows = [target.tokens(1, length + extra, seed=11 + row)[0] for row, length in enumerate(lengths)]
    expected = [model(row[None])[0] for row in rows]
    for side in ("left", "right"):
        tokens = target.tokens(len(rows), width, seed=12)  # padding is random: nothing may read it
        valid = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, length in enumerate(lengths):
            place = slice(width - length, width) if side == "left" else slice(0, length)
            tokens[row, place] = rows[row][:length]
            valid[row, place] = True
        cache = model.new_cache(len(rows), width + extra)
        prefilled = model(tokens, cache, valid=valid)
        yield (
            f"a prefill with padding on the {side}",
            prefilled[valid],
            torch.cat([logits[:length] for logits, length in zip(expected, lengths, strict=True)]),
            torch.cat([torch.arange(length) for length in lengths]),
        )
        following = torch.stack([row[length:] for row, length in zip(rows, lengths, strict=True)])
        sizes = chunks(extra, [1, 2])
        if extra:
            decoded = torch.cat([model(chunk, cache) for chunk in following.split(sizes, dim=1)], dim=1)
            yield (
                f"decoding rows of lengths {', '.join(map(str, lengths))} together after padding on the {side}",
                decoded.flatten(0, 1),
                torch.cat([logits[length:] for logits, length in zip(expected, lengths, strict=True)]),
                torch.cat([torch.arange(length, length + extra) for length in lengths]),
            )


def joining(target: AuditTarget) -> Iterator[Pass]:
    """Rows that join the batch late, pause and leave early: at each step some rows have a token and some none."""
    model, steps = target.model, target.length(24)
    present = torch.rand(3, steps, generator=generator(13)) < 0.6
    present[0, :5], present[1, -6:], present[2, :] = False, False, True
    tokens = target.tokens(3, steps, seed=14)
    cache = model.new_cache(3, steps)
    logits = torch.cat([model(tokens[:, t : t + 1], cache, valid=present[:, t : t + 1]) for t in range(steps)], dim=1)
    expected = torch.cat([model(tokens[row][present[row]][None])[0] for row in range(3)])
    positions = torch.cat([torch.arange(int(present[row].sum())) for row in range(3)])
    yield "decoding rows that join, pause and leave", logits[present], expected, positions


def reused(target: AuditTarget) -> Iterator[Pass]:
    """A row's place is taken over by a new text while its neighbour goes on."""
    model, length = target.model, target.length(20)
    tokens = target.tokens(3, length, seed=15)
    half = length // 2
    cache = model.new_cache(2, length)
    model(tokens[:2, :half], cache)
    cache.reset_rows(torch.tensor([False, True]))
    following = torch.stack((tokens[0, half:], tokens[2, : length - half]))
    logits = torch.cat([model(chunk, cache) for chunk in following.split(chunks(length - half, [1, 3]), dim=1)], dim=1)
    expected = torch.cat((model(tokens[:1])[0, half:], model(tokens[2:, : length - half])[0]))
    positions = torch.cat((torch.arange(half, length), torch.arange(length - half)))
    yield "a row that takes the place of another", logits.flatten(0, 1), expected, positions


CHECK = Check(
    name="cache parity",
    asserts="Decoding through the cache gives the logits of the full forward pass, and the prompt matters.",
    how="Token by token, in chunks of several sizes, prefill then decoding, ragged rows padded left and right, rows "
    "that join, pause, leave and take a place over; two prompts before the same token.",
    tolerance="1e-9 standard deviations of the logits in fp64: the same sums in another order.",
    means="What generates text is another model than the one that was trained and scored.",
    mark="decodes differently than it was trained",
    gather=gather,
)
