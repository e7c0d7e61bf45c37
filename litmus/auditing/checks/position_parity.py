"""Position parity: padding and other documents do not change predictions, the order of tokens does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, differences, max_difference, needs
from litmus.auditing.target import AuditTarget
from litmus.nn import Batch

MIN_EFFECT = 1e-6
"""Smallest change that counts as an effect, in standard deviations of the logits: far above rounding."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from nothing_shifts(target)
    yield order_matters(target)


@needs("padding mask")
def nothing_shifts(target: AuditTarget) -> Iterator[Evidence]:
    """A text has the same logits next to padding, and next to packed documents where the target takes these."""
    worst, packing = 0.0, " and packing" if not target.lacks("packed documents") else ""
    with torch.no_grad():
        for what, logits, expected in shifted_texts(target):
            difference = differences(logits, expected)
            worst = max(worst, float(difference.max()))
            if float(difference.max()) > target.rounding:
                yield Evidence(
                    f"{what} changes the logits of the text itself",
                    fault=True,
                    measured=float(difference.max()),
                    tolerance=target.rounding,
                    where=f"position {int(difference.argmax())} of the text",
                )
                break
        else:
            yield Evidence(f"padding{packing} shift nothing", measured=worst, tolerance=target.rounding)


def shifted_texts(target: AuditTarget) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What was added to the text, the logits of the text in that row, and those of the text alone."""
    model = target.model
    for length in target.lengths(target.pick([9, 33], [1, 9, 33, 64, 101])):
        text = target.tokens(1, length, seed=20)
        alone = model(text)
        for padding in (1, 5, 64):
            if length + padding > target.longest:
                continue
            for side in ("left", "right"):
                row, text_slice = padded(target, text, padding, side)
                valid = torch.zeros_like(row, dtype=torch.bool)
                valid[:, text_slice] = True
                yield f"padding of {padding} on the {side}", model(Batch(row, padding_mask=valid))[:, text_slice], alone
                if target.lacks("packed documents"):
                    continue
                documents = (~valid).long() if side == "left" else 1 - valid.long()
                packed = model(Batch(row, document_ids=documents))[:, text_slice]
                yield f"a document of {padding} tokens {'before' if side == 'left' else 'after'} it", packed, alone


def padded(target: AuditTarget, text: Tensor, padding: int, side: str) -> tuple[Tensor, slice]:
    """A row of the text and padding before or after it, and the slice of the text."""
    length = text.shape[1]
    neighbour = target.padding(1, padding, seed=21)
    if side == "left":
        return torch.cat((neighbour, text), 1), slice(padding, padding + length)
    return torch.cat((text, neighbour), 1), slice(0, length)


ORDER_LENGTHS = (12, 50)
"""A model that reads whole blocks of earlier tokens does not see their order within one."""


@torch.no_grad()
def effect_of_swap(target: AuditTarget, model: Any, length: int) -> float:
    """The difference that swapping two tokens far apart makes to the last logits of a text of `length` tokens."""
    length = target.length(length)
    text = target.tokens(1, length, seed=22)
    swapped = text.clone()
    swapped[0, 1], swapped[0, length - 3] = text[0, length - 3], text[0, 1]
    return max_difference(model(swapped)[:, -1], model(text)[:, -1])


def order_matters(target: AuditTarget) -> Evidence:
    """Swapping two earlier tokens changes the prediction, except in one layer without position encoding."""
    # Both models: sharp attention may look at one token only, in whatever order the others are.
    models = (target.model, target.unperturbed)
    difference = max(effect_of_swap(target, model, length) for length in ORDER_LENGTHS for model in models)
    if difference > MIN_EFFECT:
        return Evidence("the order of earlier tokens matters")
    if target.ignores_order:
        return Evidence("one layer without positions cannot see the order of tokens")
    return Evidence(
        "swapping two earlier tokens changes nothing: the model does not see their order",
        fault=True,
        measured=difference,
        tolerance=MIN_EFFECT,
        mark="ignores the order of tokens",
        meaning="It is a bag-of-words model; its scores say nothing about a language model.",
    )


CHECK = Check(
    name="position parity",
    asserts="Padding and packed neighbours, which should not matter, change nothing; the order of tokens does.",
    how="A text alone against the same text after or before padding and other documents; two tokens swapped.",
    tolerance="1e-9 standard deviations of the logits in fp64 for what must not matter, at least 1e-6 for what must.",
    means="Positions are taken from the tensor instead of the text: batched, packed and padded texts have other "
    "predictions than single ones.",
    mark="mistakes padding or packing for position",
    gather=gather,
)
