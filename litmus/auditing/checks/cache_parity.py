"""Cache parity: decoding with the cache computes the logits of the full forward pass, for any chunking."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Check, Evidence, differences, needs, plural
from litmus.auditing.checks.overfitting import learned_model
from litmus.auditing.hooks import first_difference_in_decoding
from litmus.auditing.sizes import own_lengths
from litmus.auditing.target import AuditTarget, NewCache, generator
from litmus.model import Decoder
from litmus.nn import Batch

TEXT_TOKENS = (41, 70)
EDGES_IN_STEPS = (12, 60)
"""Numbers of the model around which tokens are decoded one by one (quick, full)."""

BLOCK_EDGE_TOKENS = 131
"""Long enough for decoding across block edges at 64, 100 and 128."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from decoding_equals_full_pass(target)
    if not target.lacks("generate"):
        yield from generates_what_it_predicts(target)


@needs("cache")
def decoding_equals_full_pass(target: AuditTarget) -> Iterator[Evidence]:
    """Every way of decoding gives the logits of the full forward pass."""
    prompt = prompt_changes_continuation(target)
    yield prompt
    worst, faults, count, limit = 0.0, 0, 0, target.decoding_rounding
    for how, logits, expected, positions in decodings(target):
        difference = differences(logits, expected)
        worst, count = max(worst, float(difference.max())), count + 1
        if float(difference.max()) > limit:
            position = int(positions[int((difference > limit).nonzero()[0, -1])])
            module = "" if faults else faulty_module(target, position)
            faults += 1
            yield Evidence(
                f"{how} differs from the full forward pass",
                fault=True,
                mark="says that its cache can be truncated, which is wrong" if how.startswith(ROLLBACK) else "",
                measured=float(difference.max()),
                tolerance=limit,
                where=f"first at position {position}{module and f', {module}'}",
            )
        if faults >= 3:
            return
    if not faults:
        yield Evidence(f"{count} ways of decoding equal the full pass", measured=worst, tolerance=limit)
        if isinstance(target, DecoderTarget):
            yield from recomputation(target)


def recomputation(target: DecoderTarget) -> Iterator[Evidence]:
    """A remark on layers that have no cache of their own."""
    layers = target.model.layers
    recomputing = sum(any(getattr(part, "recomputes", False) for part in layer.modules()) for layer in layers)
    if recomputing:
        some = plural(len(layers), "layer")
        yield Evidence(f"the model decodes by recomputation of the whole prefix in {recomputing} of {some}")


def faulty_module(target: AuditTarget, position: int) -> str:
    """The module that begins to differ when tokens up to `position` are decoded one by one; "" if none does."""
    tokens = target.tokens(1, position + 1, seed=9)
    return first_difference_in_decoding(target.model, tokens, position + 1, target.decoding_rounding)


@torch.no_grad()
def effect_of_prompt(target: AuditTarget, length: int) -> float:
    """The smallest difference that another prompt makes to the logits of two tokens after it, in `length` tokens."""
    one = target.tokens(1, length, seed=3)
    other = target.other_tokens(one)
    same = target.tokens(1, 2, seed=4)
    logits = []
    for prompt in (one[:, :-2], other[:, :-2]):
        cache = target.model.new_cache(1, length)
        target.model(prompt, cache)
        logits.append(torch.cat([target.model(token, cache) for token in same.split(1, dim=1)], 1))
    return float(differences(*logits).min())


PROMPT_LENGTHS = (12, 50)
"""A model that reads whole blocks of earlier tokens may see nothing of the shorter prompt."""


def prompt_changes_continuation(target: AuditTarget) -> Evidence:
    """Two prompts followed by the same tokens must give different predictions."""
    changed = max(effect_of_prompt(target, target.length(length)) for length in PROMPT_LENGTHS)
    if changed > target.rounding:
        return Evidence("the prompt changes the continuation")
    return Evidence(
        "after two different prompts the same token has the same logits: the prompt is not in the cache",
        fault=True,
        measured=changed,
        mark="decoding ignores the prompt",
        meaning="Generated text does not depend on the prompt; decoding uses another model than training.",
    )


Decoding = tuple[str, Tensor, Tensor, Tensor]
"""A description, logits (..., V), expected logits, and the position of each."""


def decodings(target: AuditTarget) -> Iterator[Decoding]:
    """All ways of decoding: chunk sizes, ragged batches, rows that start and end at different times."""
    model = target.model
    with torch.no_grad():
        length = target.length(target.pick(*TEXT_TOKENS))
        tokens = target.tokens(2, length, seed=9)
        full, positions = model(tokens), torch.arange(length)
        yield "decoding token by token", decode(model, tokens, [1] * length), full, positions
        for size in target.pick((3,), (2, 3, 7, 16)):
            yield f"prefill in chunks of {size}", decode(model, tokens, chunk_sizes(length, [size])), full, positions
        mixed = chunk_sizes(length, [1, 2, 3, 7])
        yield "decoding in chunks of 1, 2, 3 and 7", decode(model, tokens, mixed), full, positions
        for prefill in target.pick((length // 2,), (1, 16, length // 2, length - 1)):
            sizes = [prefill, *[1] * (length - prefill)]
            yield f"a prefill of {prefill} tokens, then single ones", decode(model, tokens, sizes), full, positions
        if not target.lacks("padding mask"):
            yield from ragged_batch(target, model.new_cache)
        for name, new_cache in target.other_caches().items():
            yield from decodings_with(target, name, new_cache)
        if not target.lacks("rows of a cache"):
            yield from rows_come_and_go(target)
            yield from row_reused(target)
        if not target.lacks("reordered cache"):
            yield from rows_reordered(target)
        if not target.lacks("rows of a cache"):
            yield from row_slides(target)
        longer = target.length(BLOCK_EDGE_TOKENS)
        if longer > length:
            tokens = target.text(longer)
            sizes = chunk_sizes(longer, [longer // 2 - 4, *[1] * 6, 29, *[1] * 8, longer])
            yield (
                "prefill, decoding and prefill again past block edges",
                decode(model, tokens, sizes),
                target.text_logits(longer),
                torch.arange(longer),
            )
        yield from to_the_context(target)
        if not target.lacks("rows of a cache") and supports_rollback(model):
            yield from truncated(target)
        for other, when in other_models(target):
            tokens = target.text(target.length(34))
            sizes = chunk_sizes(tokens.shape[1], [*[1] * 9, 14, *[1] * 4, 7])
            positions = torch.arange(tokens.shape[1])
            yield f"{when}, decoding in steps and chunks", decode(other, tokens, sizes), other(tokens), positions


def decodings_with(target: AuditTarget, name: str, new_cache: NewCache) -> Iterator[Decoding]:
    """Decoding with another kind of cache: in single steps, in chunks, and in a padded batch."""
    length = target.length(TEXT_TOKENS[0])
    tokens, positions = target.tokens(2, length, seed=9), torch.arange(length)
    full = target.model(tokens)
    for how, sizes in (
        ("token by token", [1] * length),
        ("in chunks of 1, 2, 3 and 7", chunk_sizes(length, [1, 2, 3, 7])),
        (f"after a prefill of {length // 2} tokens", [length // 2, *[1] * (length - length // 2)]),
    ):
        yield f"with {name}, decoding {how}", decode(target.model, tokens, sizes, new_cache), full, positions
    if not target.lacks("padding mask"):
        for how, logits, expected, at in ragged_batch(target, new_cache):
            yield f"with {name}, {how}", logits, expected, at


def other_models(target: AuditTarget) -> Iterator[tuple[Any, str]]:
    """The model after training on one batch, and the one at its own width, where there are such; and which it is."""
    for model, when in ((learned_model(target), "after training on one batch"), target.own_size):
        if model is not None:
            yield model, when


def to_the_context(target: AuditTarget) -> Iterator[Decoding]:
    """Decoding up to the context, in single steps around every number that the model states; then prefilled at once."""
    length, text = target.reach, target.text(target.reach)
    edges = [number for number in own_lengths(target, length - 3) if number > TEXT_TOKENS[0]]
    edges = edges[: target.pick(*EDGES_IN_STEPS)] if target.affordable == 1 else edges[:2]
    single = sorted({t for edge in edges for t in range(edge - 1, edge + 2)} | set(range(length - 4, length)))
    sizes, done = [], 0
    for t in single:
        sizes += [t - done, 1] if t > done else [1]
        done = t + 1
    expected, positions = target.text_logits(length), torch.arange(length)
    how = f"decoding {length:,} tokens, singly where something may change,"
    yield how, decode(target.model, text, sizes), expected, positions
    if length > BLOCK_EDGE_TOKENS:
        sizes = [length - 4, *[1] * 4]
        how = f"a prefill of {length - 4:,} tokens, then single ones,"
        yield how, decode(target.model, text, sizes), expected, positions


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


def ragged_batch(target: AuditTarget, new_cache: NewCache) -> Iterator[Decoding]:
    """Rows of different lengths, padded left or right, prefilled together and then decoded together."""
    model = target.model
    lengths = [target.length(n) for n in (19, 3, 12, 1)]
    width, extra = max(lengths), min(6, target.longest - max(lengths))
    rows = [target.tokens(1, length + extra, seed=11 + row)[0] for row, length in enumerate(lengths)]
    expected = [model(row[None])[0] for row in rows]
    for side in ("left",) if target.lacks("rows of a cache") else ("left", "right"):
        tokens = target.padding(len(rows), width, seed=12)
        valid = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, length in enumerate(lengths):
            text_slice = slice(width - length, width) if side == "left" else slice(0, length)
            tokens[row, text_slice] = rows[row][:length]
            valid[row, text_slice] = True
        cache = new_cache(len(rows), width + extra)
        prefilled = model(Batch(tokens, padding_mask=valid), cache)
        yield (
            f"a prefill with padding on the {side}",
            prefilled[valid],
            torch.cat([logits[:length] for logits, length in zip(expected, lengths, strict=True)]),
            torch.cat([torch.arange(length) for length in lengths]),
        )
        following = torch.stack([row[length:] for row, length in zip(rows, lengths, strict=True)])
        sizes = chunk_sizes(extra, [1, 2])
        if extra:
            decoded = torch.cat([model(chunk, cache) for chunk in following.split(sizes, dim=1)], dim=1)
            yield (
                f"decoding rows of lengths {', '.join(map(str, lengths))} together after padding on the {side}",
                decoded.flatten(0, 1),
                torch.cat([logits[length:] for logits, length in zip(expected, lengths, strict=True)]),
                torch.cat([torch.arange(length, length + extra) for length in lengths]),
            )


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
    model, length = target.model, target.length(18)
    begun = length - 6
    tokens = target.tokens(3, begun, seed=16)
    cache = model.new_cache(3, length)
    model(tokens, cache)
    order = torch.tensor([2, 0, 2, 2])
    for step, kept in enumerate((order, torch.tensor([1, 3]))):
        cache.reorder(kept)
        following = target.tokens(len(kept), 3, seed=17 + step)
        logits = torch.cat([model(chunk, cache) for chunk in following.split([1, 2], dim=1)], dim=1)
        tokens = torch.cat((tokens[kept], following), 1)
        expected = model(tokens)[:, -3:]
        positions = torch.arange(tokens.shape[1] - 3, tokens.shape[1]).repeat(len(kept))
        yield "decoding after rows were repeated and dropped", logits.flatten(0, 1), expected.flatten(0, 1), positions


def row_slides(target: AuditTarget) -> Iterator[Decoding]:
    """One row is emptied and gets the last half of its text again, as the engine does at the end of the context."""
    model, length = target.model, target.length(22)
    begun, kept = length - 4, (length - 4) // 2
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
    model, length = target.model, target.length(20)
    tokens = target.tokens(3, length, seed=15)
    half = length // 2
    cache = model.new_cache(2, length)
    model(tokens[:2, :half], cache)
    cache.reset_rows(torch.tensor([False, True]))
    following = torch.stack((tokens[0, half:], tokens[2, : length - half]))
    logits = torch.cat(
        [model(chunk, cache) for chunk in following.split(chunk_sizes(length - half, [1, 3]), dim=1)], dim=1
    )
    expected = torch.cat((model(tokens[:1])[0, half:], model(tokens[2:, : length - half])[0]))
    positions = torch.cat((torch.arange(half, length), torch.arange(length - half)))
    yield "reusing a row for another text", logits.flatten(0, 1), expected, positions


GENERATED, PROMPTS = 6, (11, 5, 8)
"""Tokens generated after prompts of these lengths, in one batch and alone."""


@needs("generate")
def generates_what_it_predicts(target: AuditTarget) -> Iterator[Evidence]:
    """Each token that greedy generation gives has the largest logit of the full forward pass, up to ties."""
    prompts = [target.tokens(1, length, seed=16)[0] for length in PROMPTS]
    batches = [(prompts[:1], "for one prompt")]
    if not target.lacks("padding mask"):
        batches.append((prompts, f"for prompts of {', '.join(map(str, PROMPTS))} tokens in one batch"))
    for batch, how in batches:
        for prompt, continuation in zip(batch, target.generate(batch, GENERATED), strict=True):
            logits = target.logits(target.model, torch.cat((prompt, continuation))[None])[0, len(prompt) - 1 : -1]
            chosen = logits.gather(-1, continuation[:, None])[:, 0]
            short = (logits.amax(-1) - chosen) / logits.std(-1).clamp(min=1e-30)
            if float(short.max()) > target.rounding:
                yield Evidence(
                    f"greedy generation {how} takes another token than the one with the largest logit",
                    fault=True,
                    measured=float(short.max()),
                    tolerance=target.rounding,
                    where=f"generated token {int((short > target.rounding).nonzero()[0])} of {GENERATED}",
                    mark="generates other tokens than it predicts",
                )
                return
    yield Evidence("greedy generation takes the tokens that the full pass predicts")


CHECK = Check(
    name="cache parity",
    asserts="Decoding with the cache computes the logits of the full forward pass, and the prompt matters.",
    how="Token by token, in chunks of several sizes, prefill then decoding, up to the context and singly around every "
    "number that the model states; ragged rows padded left and right, rows that start late, pause, end early and are "
    "reused, repeated, dropped or moved on; removal of the last tokens where the model supports it; a StaticCache "
    "where a class of transformers takes one; two prompts before the same tokens; after training too.",
    tolerance="1e-9 standard deviations of the logits in fp64: the same sums in another order; 1e-6 where a module "
    "keeps tables in fp32.",
    means="Text is generated by another model than the one that was trained and scored.",
    mark="decodes differently than it was trained",
    gather=gather,
    exact=True,
)
