"""Causality: a prediction depends on no later token, no other row and no other document."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, differences, max_difference, needs, plural
from litmus.auditing.hooks import captured, first_difference, training_loss
from litmus.auditing.target import AuditTarget, generator
from litmus.model import Decoder
from litmus.nn import Batch

ALL_CUTS_UP_TO = (12, 24)
"""Up to this length (quick, full), every cut of every length is tried."""

EDGE_LENGTHS = (32, 33, 64, 65, 100, 101, 128, 129)
FULL_AUDIT_EDGE_LENGTHS = (31, 63, 99, 127, 255, 256, 257, 300, 383, 511, 512, 513, 777, 1023, 1024)
QUICK_MAX_CONTEXT = 512
MAX_SIGMA = 6.0
"""Standard errors by which the loss of random tokens may lie below ln V: chance has a probability of 1e-9."""

MAX_TOKENS_TRIED = 64
"""Tokens after a leaking cut that are replaced one at a time, to name the one that is seen."""

DENSE_CUTS_LENGTH, FULL_AUDIT_DENSE_CUTS_LENGTH = 200, 1025
"""Lengths with densely spaced cuts: a leak across one block edge is visible only at the cut on that edge."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    faults = 0
    for part in (
        rows_independent,
        later_tokens_no_effect,
        no_gradient_from_later,
        documents_independent,
        training_loss_causal,
        *((random_text_not_predicted,) if target.lacks("recipe") else ()),
    ):
        for evidence in part(target):
            faults += evidence.fault
            yield evidence
        if faults:
            return  # the same leak would appear in all later parts


def rows_independent(target: AuditTarget) -> Iterator[Evidence]:
    """A row has the same logits alone as in a batch."""
    worst = 0.0
    for batch, length in ((3, target.length(17)), (5, target.length(70))):
        tokens = target.tokens(batch, length)
        together = target.logits(target.model, tokens)
        alone = torch.cat([target.logits(target.model, row[None]) for row in tokens])
        worst = max(worst, max_difference(together, alone))
    if worst > target.rounding:
        yield Evidence(
            "a row's logits depend on the other rows of its batch",
            fault=True,
            measured=worst,
            tolerance=target.rounding,
            mark="rows of a batch see each other",
            meaning="A score depends on which texts share a batch, and decoding one text differs from decoding many.",
        )
    else:
        yield Evidence("rows of a batch are independent", measured=worst, tolerance=target.rounding)


def later_tokens_no_effect(target: AuditTarget) -> Iterator[Evidence]:
    """Replacing all tokens from a cut on does not change the logits before the cut."""
    worst, lengths = 0.0, 0
    for model, length, cuts in cases(target):
        tokens = target.tokens(1, length, seed=length)[0]
        rows = replaced_from(tokens, cuts, target)
        difference = differences(target.logits(model, rows)[1:], target.logits(model, tokens[None]))  # (cuts, T)
        difference = difference.masked_fill(torch.arange(length) >= cuts[:, None], 0.0)
        lengths += 1
        worst = max(worst, float(difference.max()))
        if worst > target.rounding:
            yield leak(target, model, tokens, rows, cuts, difference)
            return
    yield Evidence(
        f"replaced tokens change nothing before them ({plural(lengths, 'sequence')} of up to {length} tokens)",
        measured=worst,
        tolerance=target.rounding,
    )


def cases(target: AuditTarget) -> Iterator[tuple[Decoder, int, Tensor]]:
    """(model, length, cuts): every cut of short sequences, random cuts of longer ones, dense cuts at two lengths."""
    for length in range(2, target.pick(*ALL_CUTS_UP_TO) + 1):
        yield target.model, length, torch.arange(1, length)
    length = target.length(70)
    yield target.unperturbed, length, torch.tensor([1, length - 1])
    context = target.context
    long_lengths = {*FULL_AUDIT_EDGE_LENGTHS, context - 1, context, context + 1, 2 * context}
    for length in sorted({*EDGE_LENGTHS, *target.pick({min(context, QUICK_MAX_CONTEXT)}, long_lengths)}):
        if 2 <= length <= min(target.longest, FULL_AUDIT_DENSE_CUTS_LENGTH):
            random_cuts = torch.randint(1, length, (target.cases(3, 8),), generator=generator(length)).tolist()
            yield target.model, length, torch.tensor(sorted({1, length - 1, *random_cuts}))
    length = target.length(DENSE_CUTS_LENGTH)
    yield target.model, length, target.pick(cuts_at_edges(length, 32, 50), torch.arange(1, length))
    if not target.quick and target.longest >= FULL_AUDIT_DENSE_CUTS_LENGTH:
        yield target.model, FULL_AUDIT_DENSE_CUTS_LENGTH, cuts_at_edges(FULL_AUDIT_DENSE_CUTS_LENGTH, 128, 500)


def cuts_at_edges(length: int, *blocks: int) -> Tensor:
    """The cuts at, just before and just after every multiple of the given block sizes."""
    edges = {edge + offset for block in blocks for edge in range(0, length + 1, block) for offset in (-1, 0, 1)}
    return torch.tensor(sorted(cut for cut in edges if 0 < cut < length))


def replaced_from(tokens: Tensor, cuts: Tensor, target: AuditTarget) -> Tensor:
    """(1 + cuts, T): the tokens (T,), then one row per cut with all tokens from the cut on replaced."""
    later = torch.arange(len(tokens)) >= cuts[:, None]
    other_tokens = target.other_tokens(tokens.expand(len(cuts), -1))
    return torch.cat((tokens[None], torch.where(later, other_tokens, tokens)))


def leak(
    target: AuditTarget, model: Decoder, tokens: Tensor, rows: Tensor, cuts: Tensor, difference: Tensor
) -> Evidence:
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
    later = torch.arange(cut, min(len(tokens), cut + MAX_TOKENS_TRIED))
    rows = tokens.expand(len(later), -1).clone()
    rows[torch.arange(len(later)), later] = replaced[later]
    effect = differences(target.logits(model, rows), target.logits(model, tokens[None]))[:, position]
    found = later[effect > target.rounding].tolist()
    return f"which sees token {found[0]}" if found else ""


@needs("embeddings")
def no_gradient_from_later(target: AuditTarget) -> Iterator[Evidence]:
    """The gradient of a position's logits to later embeddings is 0; finds leaks whose effects cancel in the logits."""
    worst = 0.0
    lengths = target.lengths([11, 37, 66, 130, *target.pick((), (260, 515))])
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
            before = target.model(Batch(tokens, document_ids=documents))
            for changed in range(3):
                inside = documents == changed
                after = target.model(
                    Batch(torch.where(inside, target.other_tokens(tokens), tokens), document_ids=documents)
                )
                difference = differences(after, before).masked_fill(inside, 0)
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


@needs("loss")
def training_loss_causal(target: AuditTarget) -> Iterator[Evidence]:
    """The training loss of a target does not depend on the tokens after it."""
    model = copy.deepcopy(target.model).train()
    worst = 0.0
    short, long = target.length(35), target.length(131)
    for length, cuts in ((short, (1, short // 2, short - 1)), (long, (min(64, long // 2), long - 1))):
        tokens = target.tokens(2, length, seed=7)
        later = target.other_tokens(tokens)
        targets = target.tokens(2, length, seed=8)
        with torch.no_grad():
            scale = float(model(tokens).std(-1).mean())
        for cut in cuts:
            changed = torch.where(torch.arange(length) >= cut, later, tokens)
            # The difference between two sets of targets is free of terms that do not depend on targets, such as a
            # balance loss, which may use the whole batch.
            seen = [target_contrast(model, x, targets, target.other_tokens(targets), cut) for x in (tokens, changed)]
            difference = abs(seen[0] - seen[1]) / scale
            worst = max(worst, difference if difference == difference else torch.inf)
            if worst > target.loss_rounding:
                yield Evidence(
                    f"in training mode, the loss of the targets before position {cut} changes with the tokens from "
                    f"{cut} on, in a sequence of {length}",
                    fault=True,
                    measured=worst,
                    tolerance=target.loss_rounding,
                    where=f"model.loss, positions before {cut}",
                    mark="sees the future in training",
                    meaning="The training loss is too low, and what the model learns from it does not help in use.",
                )
                return
    yield Evidence(
        "the training loss of earlier targets does not depend on later tokens",
        measured=worst,
        tolerance=target.loss_rounding,
    )


def target_contrast(model: Decoder, tokens: Tensor, targets: Tensor, other_tokens: Tensor, cut: int) -> float:
    """Loss of the first `cut` positions with one set of targets minus that with the other."""
    unscored = torch.arange(tokens.shape[1]) >= cut
    one, other = (
        training_loss(model, tokens, t.masked_fill(unscored, -100), seed=0).total.item()
        for t in (targets, other_tokens)
    )
    return one - other


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
    how="Tokens from a cut on are replaced, at all cuts of short sequences and around block edges of long ones; the "
    "gradient of earlier logits to later embeddings; the same for rows, packed documents and the training loss.",
    tolerance="1e-9 standard deviations of the logits in fp64: rounding is below 1e-13, leaks are above 1e-6.",
    means="The model reads the token that it should predict: its scores are too good to be true, and its generated "
    "text will be worse than they suggest.",
    mark="sees the future",
    gather=gather,
)
