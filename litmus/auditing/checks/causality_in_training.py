"""Causality in training: the loss of a target depends on no later token, no other row and no other document."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.check import Evidence, needs
from litmus.auditing.hooks import added_aux_losses, training_loss
from litmus.auditing.target import AuditTarget
from litmus.nn import IGNORED, Batch


@needs("loss")
def training_loss_causal(target: AuditTarget) -> Iterator[Evidence]:
    """The training loss of a target depends neither on the tokens after it nor on other rows."""
    model = copy.deepcopy(target.model).train()
    worst = 0.0
    for what, tokens, changed, scored in changed_in_training(target):
        targets = target.tokens(len(tokens), tokens.shape[1], seed=8)
        with torch.no_grad():
            scale = float(model(tokens[:1]).std(-1).mean())
        # The difference between two sets of targets is free of terms that do not depend on targets, such as a
        # balance loss, which may use the whole batch.
        seen = [
            target_contrast(model, Batch(x), targets, target.other_tokens(targets), scored) for x in (tokens, changed)
        ]
        difference = abs(seen[0] - seen[1]) / scale
        worst = max(worst, difference if difference == difference else torch.inf)
        if worst > target.loss_rounding:
            yield Evidence(
                f"in training mode, the loss of {what}",
                fault=True,
                measured=worst,
                tolerance=target.loss_rounding,
                where="model.loss",
                mark="sees the future in training" if "from" in what else "rows of a batch see each other in training",
                meaning="The training loss is too low, and what the model learns from it does not help in use.",
            )
            return
    yield Evidence(
        "the training loss of earlier targets does not depend on later tokens",
        measured=worst,
        tolerance=target.loss_rounding,
    )


Changed = tuple[str, Tensor, Tensor, Tensor]
"""A description, tokens (B, T), tokens that differ in some places, and which targets are scored."""


def changed_in_training(target: AuditTarget) -> Iterator[Changed]:
    """Batches whose tokens from a cut on are replaced, and batches whose other rows are."""
    short, long = target.length(35), target.length(131)
    cuts_of: dict[int, tuple[int, ...]] = {short: (short // 2,)}
    if target.affordable == 1:
        cuts_of = {short: (1, short // 2, short - 1), long: (min(64, long // 2), long - 1)}
        cuts_of |= target.pick({}, {target.reach: (target.reach // 2,)})
    for length, cuts in cuts_of.items():
        if length > target.longest:
            continue
        tokens = target.tokens(2, length, seed=7)
        for cut in cuts:
            later = torch.arange(length) >= cut
            yield (
                f"the targets before position {cut} changes with the tokens from {cut} on, in a sequence of {length}",
                tokens,
                torch.where(later, target.other_tokens(tokens), tokens),
                ~later.expand_as(tokens),
            )
    for rows in (2, 16):
        tokens = target.tokens(rows, target.length(12), seed=7)
        first = (torch.arange(rows) == 0)[:, None].expand_as(tokens)
        others = torch.where(first, tokens, target.other_tokens(tokens))
        yield f"one row changes with the other rows of a batch of {rows}", tokens, others, first


@needs("loss", "packed documents")
def documents_independent_in_training(target: AuditTarget) -> Iterator[Evidence]:
    """The training loss of a packed document does not depend on the tokens of the document before it."""
    length = target.length(30)
    tokens, targets = target.tokens(1, length, seed=7), target.tokens(1, length, seed=8)
    documents = (torch.arange(length) >= length // 2).long()[None]
    before = documents == 0
    model = copy.deepcopy(target.model)
    with torch.no_grad():
        scale = float(model(tokens).std(-1).mean())
    changed = torch.where(before, target.other_tokens(tokens), tokens)
    seen = [
        target_contrast(model, Batch(x, document_ids=documents), targets, target.other_tokens(targets), ~before)
        for x in (tokens, changed)
    ]
    difference = abs(seen[0] - seen[1]) / scale
    name, joint = largest_joint_effect(target, model, Batch(tokens, targets.masked_fill(before, IGNORED), documents))
    fault = not max(difference, joint / scale) <= target.loss_rounding
    which = f", in its term {name!r}" if fault and difference <= target.loss_rounding else ""
    yield Evidence(
        "the training loss of a packed document "
        + (f"changes with the document before it{which}" if fault else "does not depend on the document before it"),
        fault=fault,
        measured=max(difference, joint / scale),
        tolerance=target.loss_rounding,
        where="model.loss with document ids" if fault else "",
        mark="packed documents see each other in training",
        meaning="With packed documents, a text is trained with unrelated text as its context.",
    )


@torch.no_grad()
def largest_joint_effect(target: AuditTarget, model: Any, batch: Batch) -> tuple[str, float]:
    """The term of the objective on which two documents act jointly, and f(a, b) - f(a', b) - f(a, b') + f(a', b').

    Such a term need not depend on the targets, as one that pushes states apart. What layers add is left out: the
    balance of experts is over all documents.
    """
    other = target.other_tokens(batch.tokens)
    assert batch.document_ids is not None
    joint: dict[str, float] = {}
    with added_aux_losses() as added:
        for first in (False, True):
            for second in (False, True):
                replaced = torch.where(batch.document_ids == 0, first, second)
                text = replace(batch, tokens=torch.where(replaced, other, batch.tokens))
                for name, value in training_loss(model, text, seed=0).parts.items():
                    joint[name] = joint.get(name, 0.0) + (1 if first == second else -1) * float(value)
    for name, _, _ in added:
        joint.pop(name, None)
    return max(((name, abs(value)) for name, value in joint.items()), key=lambda item: item[1], default=("", 0.0))


@torch.no_grad()
def target_contrast(model: Any, batch: Batch, targets: Tensor, other: Tensor, scored: Tensor) -> float:
    """Training loss of the `scored` positions (B, T) with one set of targets minus that with the other."""
    one, two = (t.masked_fill(~scored, IGNORED) for t in (targets, other))
    if batch.document_ids is None:
        losses = [training_loss(model, batch.tokens, t, seed=0).total.item() for t in (one, two)]
    else:
        losses = [training_loss(model, replace(batch, targets=t), seed=0).total.item() for t in (one, two)]
    return losses[0] - losses[1]
