"""Cache parity: decoding with the cache computes the logits of the full forward pass, for any chunking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Check, Evidence, differences, needs, plural
from litmus.auditing.checks.cache_operations import ROLLBACK, Decoding, chunk_sizes, decode, operations
from litmus.auditing.checks.overfitting import learned_model
from litmus.auditing.hooks import first_difference_in_decoding
from litmus.auditing.sizes import own_lengths
from litmus.auditing.target import AuditTarget, NewCache
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
        yield from operations(target)
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
    "number that the model states; two texts in turns; ragged rows padded left and right, rows that start late, pause, "
    "end early and are reused, repeated, dropped or moved on; removal of the last tokens where the model supports it; "
    "a StaticCache where a class of transformers takes one; two prompts before the same tokens; after training too.",
    tolerance="1e-9 standard deviations of the logits in fp64: the same sums in another order; 1e-6 where a module "
    "keeps tables in fp32.",
    means="Text is generated by another model than the one that was trained and scored.",
    mark="decodes differently than it was trained",
    gather=gather,
    exact=True,
)
