"""Causality: a prediction depends on no later token, no other row and no other document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, differences, max_difference, needs, plural
from litmus.auditing.checks.causality_in_training import documents_independent_in_training, training_loss_causal
from litmus.auditing.checks.overfitting import learned_model
from litmus.auditing.hooks import captured, first_difference
from litmus.auditing.sizes import BLOCKS, own_batches, own_lengths, stated_numbers
from litmus.auditing.target import MAX_KEPT_LOGITS, AuditTarget, generator
from litmus.nn import Batch

ALL_CUTS_UP_TO = (12, 24)
"""Up to this length (quick, full), every cut of every length is tried."""

EDGE_LENGTHS = (32, 33, 64, 65, 100, 101, 128, 129)
FULL_AUDIT_EDGE_LENGTHS = (31, 63, 99, 127, 255, 256, 257, 300, 383, 511, 512, 513, 777, 1023, 1024)
MAX_SIGMA = 6.0
"""Standard errors by which the loss of random tokens may lie below ln V: chance has a probability of 1e-9."""

OWN_LENGTHS_TOKENS = (14_000, 80_000)
"""Tokens (quick, full) for sequences of lengths that the model itself states."""

MAX_TOKENS_TRIED, MAX_ROWS_TOKENS = 64, 8000
"""Tokens after a leaking cut that are replaced one at a time, to name the one that is seen."""

DENSE_CUTS_LENGTH, FULL_AUDIT_DENSE_CUTS_LENGTH = 240, 1025
"""Lengths with densely spaced cuts: a leak across one block edge is visible only at the cut on that edge."""

LEARNED_LENGTHS = (24, 70, 200)
"""Lengths at which the model is tried once more after it was trained on one batch."""

OWN_SIZE_LENGTHS = (33, 130)
BATCH_LENGTH = 5


def gather(target: AuditTarget) -> Iterator[Evidence]:
    faults = 0
    for part in (
        rows_independent,
        later_tokens_no_effect,
        no_gradient_from_later,
        documents_independent,
        training_loss_causal,
        *((random_text_not_predicted,) if target.lacks("recipe") else ()),
        documents_independent_in_training,
        causal_after_training,
        causal_at_own_size,
    ):
        for evidence in part(target):
            faults += evidence.fault
            yield evidence
        if faults:
            return  # the same leak would appear in all later parts


def rows_independent(target: AuditTarget) -> Iterator[Evidence]:
    """A row has the same logits alone as in a batch, of any number of rows."""
    worst, shapes = 0.0, 0
    for batch, length in batch_shapes(target):
        tokens = target.tokens(MAX_ROWS, length)[:batch]  # the same rows in every batch of this length
        together = target.logits(target.model, tokens)
        rows = range(batch) if batch <= 5 else (0, batch // 2, batch - 1)
        alone = torch.cat([row_alone(target, tokens, row) for row in rows])
        worst, shapes = max(worst, max_difference(together[list(rows)], alone)), shapes + 1
        if worst > target.rounding:
            yield Evidence(
                f"a row's logits depend on the other rows of its batch, in a batch of {batch} x {length} tokens",
                fault=True,
                measured=worst,
                tolerance=target.rounding,
                mark="rows of a batch see each other",
                meaning="A score depends on which texts share a batch, and decoding one text differs from decoding "
                "many.",
            )
            return
    yield Evidence(
        f"rows of a batch are independent ({shapes} shapes)",
        measured=worst,
        tolerance=target.rounding,
    )


MAX_ROWS = 129
MAX_BATCH_TOKENS = (6_000, 40_000)


def batch_shapes(target: AuditTarget) -> Iterator[tuple[int, int]]:
    """(rows, tokens per row): every number of rows, some lengths, and products just above the numbers it states."""
    yield 3, target.length(17)
    yield 5, target.length(70)
    rows = own_batches(target) if target.affordable == 1 else [2, 8, 16, 32]
    for batch in rows:
        yield batch, target.length(BATCH_LENGTH)
    budget = target.pick(*MAX_BATCH_TOKENS) * target.affordable
    for number in stated_numbers(target):
        length = number // 8 + 1
        budget -= 9 * length
        if length > target.longest or budget < 0:
            continue
        yield 8, length


def row_alone(target: AuditTarget, tokens: Tensor, row: int) -> Tensor:
    """Logits (1, T, V) of one row of tokens (B, T) by itself."""
    compute = partial(target.logits, target.model, tokens[row : row + 1])
    return target.once(("row alone", row, tokens.shape[1]), compute) if tokens.shape[1] == BATCH_LENGTH else compute()


def later_tokens_no_effect(target: AuditTarget) -> Iterator[Evidence]:
    """Replacing all tokens from a cut on does not change the logits before the cut."""
    worst, lengths = 0.0, []
    for model, length, cuts in cases(target):
        tokens = target.text(length)[0]
        difference, logits = effect_of_later(target, model, tokens, cuts)
        if model is target.model and logits.numel() <= MAX_KEPT_LOGITS:
            target.once(("text logits", length), lambda logits=logits: logits)  # type: ignore[misc]
        lengths.append(length)
        worst = max(worst, float(difference.max()))
        if worst > target.rounding:
            yield leak(target, model, tokens, replaced_from(tokens, cuts, target), cuts, difference)
            return
    longest = max(lengths)
    reached = f" (the context is {target.context:,})" if longest < target.context else ""
    yield Evidence(
        f"replaced tokens change nothing before them ({plural(len(lengths), 'sequence')} of up to "
        f"{longest:,} tokens{reached})",
        measured=worst,
        tolerance=target.rounding,
    )


def effect_of_later(target: AuditTarget, model: Any, tokens: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Differences (cuts, T) before each cut made by replacing all tokens from it on, and the logits (1, T, V)."""
    logits = target.logits(model, replaced_from(tokens, cuts, target))
    difference = differences(logits[1:], logits[:1])
    return difference.masked_fill(torch.arange(len(tokens)) >= cuts[:, None], 0.0), logits[:1]


def cases(target: AuditTarget) -> Iterator[tuple[Any, int, Tensor]]:
    """(model, length, cuts): every cut of short sequences, some cuts of longer ones, dense cuts at two lengths."""
    for length in range(2, target.pick(*ALL_CUTS_UP_TO) + 1):
        if length <= target.longest:
            yield target.model, length, torch.arange(1, length)
    length = target.length(70)
    yield target.unperturbed, length, torch.tensor([1, length - 1])
    affordable = target.affordable
    context = target.context
    edges = {*EDGE_LENGTHS, *target.pick((), (*FULL_AUDIT_EDGE_LENGTHS, context - 1, context + 1, 2 * context))}
    for length in sorted({min(length, target.reach) for length in edges} if affordable == 1 else {33, 128}):
        if 2 <= length <= target.longest:
            yield target.model, length, some_cuts(length, target.cases(2, 4))
    length = target.length(DENSE_CUTS_LENGTH)
    blocks = (*BLOCKS, 32, 50)
    edges_of_blocks = cuts_at_edges(length, *blocks, offsets=target.pick((0,), (-1, 0, 1)))
    if affordable == 1 and len(edges_of_blocks):
        yield target.model, length, edges_of_blocks
    budget = target.pick(*OWN_LENGTHS_TOKENS) * affordable
    for length in own_lengths(target, target.reach):
        cuts = some_cuts(length, target.pick(1, 2))
        budget -= length * (1 + length / 1000) * (1 + len(cuts))
        if budget < 0 and length != target.context:
            continue
        yield target.model, length, cuts
    if not target.quick and target.reach >= FULL_AUDIT_DENSE_CUTS_LENGTH:
        dense = cuts_at_edges(FULL_AUDIT_DENSE_CUTS_LENGTH, 128, 500, offsets=(0, 1))
        yield target.model, FULL_AUDIT_DENSE_CUTS_LENGTH, dense


def some_cuts(length: int, random_cuts: int) -> Tensor:
    """The last cut, one within the last ninth, and random ones."""
    chosen = torch.randint(1, length, (random_cuts,), generator=generator(length)).tolist()
    return torch.tensor(sorted({length - 1, max(1, length - length // 9 - 1), *chosen}))


def cuts_at_edges(length: int, *blocks: int, offsets: tuple[int, ...] = (-1, 0, 1)) -> Tensor:
    """The cuts at every multiple of the given block sizes, moved by each of the offsets."""
    edges = {edge + offset for block in blocks for edge in range(0, length + 1, block) for offset in offsets}
    return torch.tensor(sorted(cut for cut in edges if 0 < cut < length))


def replaced_from(tokens: Tensor, cuts: Tensor, target: AuditTarget) -> Tensor:
    """(1 + cuts, T): the tokens (T,), then one row per cut with all tokens from the cut on replaced."""
    later = torch.arange(len(tokens)) >= cuts[:, None]
    other_tokens = target.other_tokens(tokens.expand(len(cuts), -1))
    return torch.cat((tokens[None], torch.where(later, other_tokens, tokens)))


def leak(target: AuditTarget, model: Any, tokens: Tensor, rows: Tensor, cuts: Tensor, difference: Tensor) -> Evidence:
    """The leak with the largest effect: the position, the cut, and the module where the difference begins."""
    row = int(difference.amax(1).argmax())
    cut, position = int(cuts[row]), int(difference[row].argmax())
    module = first_difference(model, tokens[None], rows[row + 1][None], cut, target.rounding)
    token = leaking_token(target, model, tokens, rows[row + 1], cut, position)
    return Evidence(
        f"replacing the tokens from position {cut} on changes the logits at position {position}, "
        f"in a sequence of {len(tokens)}",
        fault=True,
        measured=float(difference.max()),
        tolerance=target.rounding,
        where=", ".join(part for part in (module, f"position {position}", token) if part),
    )


def leaking_token(target: AuditTarget, model: Any, tokens: Tensor, replaced: Tensor, cut: int, position: int) -> str:
    """The first token from `cut` on that has an effect at `position` when it alone is replaced; "" if none has."""
    tried = min(MAX_TOKENS_TRIED, max(4, MAX_ROWS_TOKENS // len(tokens)))
    later = torch.arange(cut, min(len(tokens), cut + tried))
    rows = tokens.expand(len(later), -1).clone()
    rows[torch.arange(len(later)), later] = replaced[later]
    effect = differences(target.logits(model, rows), target.logits(model, tokens[None]))[:, position]
    found = later[effect > target.rounding].tolist()
    return f"which sees token {found[0]}" if found else ""


@needs("embeddings")
def no_gradient_from_later(target: AuditTarget) -> Iterator[Evidence]:
    """The gradient of a position's logits to later embeddings is 0; finds leaks whose effects cancel in the logits."""
    worst = 0.0
    lengths = target.lengths([11, 37, *([66, 130] if target.affordable == 1 else []), *target.pick((), (260, 515))])
    for length in lengths:
        tokens = target.tokens(2, length, seed=5)
        with captured(target.model.embedding) as vectors:
            logits = target.model(tokens)
            weights = torch.randn(logits.shape, generator=generator(length), dtype=logits.dtype)
            for cut in gradient_cuts(target, length):
                earlier = (logits[0, :cut] * weights[0, :cut]).sum()
                (gradient,) = torch.autograd.grad(earlier, vectors[0], retain_graph=True)
                magnitude = gradient.abs().amax(-1)  # (2, T)
                scale = magnitude[0, :cut].max().clamp(min=1e-30)
                allowed = torch.zeros_like(magnitude, dtype=torch.bool)
                allowed[0, :cut] = True
                leaked = (magnitude / scale).masked_fill(allowed, 0)
                worst = max(worst, float(leaked.nan_to_num(torch.inf).max()))
                if worst > target.rounding:
                    row, source = divmod(int(leaked.argmax()), length)
                    reader = "an earlier position's logits" if row == 0 else "another row's logits"
                    yield Evidence(
                        f"{reader} depend on the embedding of token {source}, in a sequence of {length}: "
                        f"its gradient is {worst:.2g} of the largest one of a visible token",
                        fault=True,
                        measured=worst,
                        tolerance=target.rounding,
                        where=f"positions before {cut}",
                    )
                    return
    yield Evidence(
        f"no gradient flows from later tokens or other rows ({plural(len(lengths), 'length')} up to {lengths[-1]})",
        measured=worst,
        tolerance=target.rounding,
    )


def gradient_cuts(target: AuditTarget, length: int) -> list[int]:
    if target.affordable < 1:
        return [1, length - 1]
    if length < 12:
        return list(range(1, length))
    return sorted({1, length // 2, length - 1, min(64, length - 1), *([] if target.quick else [length // 3, 16])})


@needs("packed documents")
def documents_independent(target: AuditTarget) -> Iterator[Evidence]:
    """Changing one of three packed documents does not change the logits of the other two."""
    worst = 0.0
    for edges in ((5, 12), (17, 18)):
        length = target.length(30)
        tokens = target.tokens(1, length, seed=6)
        index = torch.arange(length)
        documents = ((index >= edges[0]).long() + (index >= edges[1]).long())[None]
        with torch.no_grad():
            batch, other = Batch(tokens, document_ids=documents), target.other_tokens(tokens)
            for changed, difference in effects_of_documents(target.model, batch, other):
                worst = max(worst, float(difference.max()))
                if worst > target.rounding:
                    position = int(difference.argmax())
                    yield Evidence(
                        f"changing document {changed} changes the logits of document {int(documents[0, position])}",
                        fault=True,
                        measured=worst,
                        tolerance=target.rounding,
                        where=f"position {position}; documents begin at 0, {edges[0]} and {edges[1]}",
                        mark="packed documents see each other",
                        meaning="With packed documents, a text is scored with unrelated text as its context.",
                    )
                    return
    yield Evidence("packed documents are independent", measured=worst, tolerance=target.rounding)


@torch.no_grad()
def effects_of_documents(model: Any, batch: Batch, other: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each packed document, and how much the logits outside it (B, T) change with its tokens, replaced by `other`."""
    assert batch.document_ids is not None
    before = model(batch)
    for document in batch.document_ids.unique().tolist():
        inside = batch.document_ids == document
        after = model(replace(batch, tokens=torch.where(inside, other, batch.tokens)))
        yield document, differences(after, before).masked_fill(inside, 0)


def causal_after_training(target: AuditTarget) -> Iterator[Evidence]:
    """The same of the model that has been trained on one batch: buffers, schedules and gates have moved by then."""
    model = learned_model(target)
    if model is not None:
        lengths = target.lengths(list(LEARNED_LENGTHS))
        yield from causal_as(target, model, "after training on one batch", lengths)


def causal_at_own_size(target: AuditTarget) -> Iterator[Evidence]:
    """The same at the width and vocabulary that were asked for, which may take another path."""
    model, size = target.own_size
    if model is not None:
        yield from causal_as(target, model, size, target.lengths(list(OWN_SIZE_LENGTHS)))
    elif size:
        yield Evidence(size)


def causal_as(target: AuditTarget, model: Any, when: str, lengths: list[int]) -> Iterator[Evidence]:
    """Replaced tokens have no effect before them in another model than `target.model`, at a few cuts."""
    worst = 0.0
    for length in lengths:
        tokens, cuts = target.text(length)[0], some_cuts(length, 2)
        difference, _ = effect_of_later(target, model, tokens, cuts)
        worst = max(worst, float(difference.max()))
        if worst > target.rounding:
            evidence = leak(target, model, tokens, replaced_from(tokens, cuts, target), cuts, difference)
            yield replace(evidence, what=f"{when}, {evidence.what}")
            return
    yield Evidence(f"nor {when}", measured=worst, tolerance=target.rounding)


def random_text_not_predicted(target: AuditTarget) -> Iterator[Evidence]:
    """The loss of random tokens is not below ln V: whoever predicts them better has seen them.

    It needs no gradient and no module, and holds for the model's own loss of a text, however that shifts its targets.
    """
    tokens = target.tokens(16, target.length(64), seed=18)
    floor, lowest = math.log(target.distinct_tokens), math.inf
    for model in (target.unperturbed, target.model):
        with torch.no_grad():
            losses = model.token_losses(tokens[:, :-1], tokens[:, 1:]).double()
            own = losses.mean() if target.lacks("loss") else model.loss_of_text(tokens)
        noise = float(losses.std()) / losses.numel() ** 0.5
        lowest = min(lowest, float(own) - floor)
        if float(own) < floor - MAX_SIGMA * noise:
            yield Evidence(
                f"the loss of random tokens is {float(own):.3f} nats, below ln {target.distinct_tokens} = {floor:.3f}",
                fault=True,
                measured=float(own) - floor,
                tolerance=-MAX_SIGMA * noise,
                mark="predicts what cannot be predicted",
                meaning="The loss contains the token that it should predict.",
            )
            return
    yield Evidence(f"random tokens are not predicted (loss {lowest:+.2g} from ln V)")


CHECK = Check(
    name="causality",
    asserts="Changing token j never changes the logits at positions before j, in other rows or in other documents.",
    how="Tokens from a cut on are replaced, at all cuts of short sequences and around block edges of long ones, at "
    "lengths from the model's own code and configuration; the gradient of earlier logits to later embeddings; the same "
    "for 1 to 33 rows, packed documents, the training loss, and the model after training on one batch.",
    tolerance="1e-9 standard deviations of the logits in fp64: rounding is below 1e-13, leaks are above 1e-6.",
    means="The model reads the token that it should predict: its scores are too good to be true, and its generated "
    "text will be worse than they suggest.",
    mark="sees the future",
    gather=gather,
    exact=True,
)
