"""Position parity: what should not matter for a token's place changes nothing, and what should does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.auditing.check import Check, Evidence, differences, max_difference
from litmus.auditing.target import AuditTarget

NOTICED = 1e-6
"""The least change, in standard deviations of the logits, that counts as an effect: far above rounding."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    worst = 0.0
    with torch.no_grad():
        for what, logits, expected in placements(target):
            moved = differences(logits, expected)
            worst = max(worst, float(moved.max()))
            if float(moved.max()) > target.rounding:
                yield Evidence(
                    f"{what} changes the logits of the text itself",
                    fault=True,
                    measured=float(moved.max()),
                    tolerance=target.rounding,
                    where=f"position {int(moved.argmax())} of the text",
                )
                break
        else:
            yield Evidence("padding and packing shift nothing", measured=worst, tolerance=target.rounding)
        yield order_matters(target)


def placements(target: AuditTarget) -> Iterator[tuple[str, Tensor, Tensor]]:
    """A text alone, against the same text shifted by padding or by other documents before it in the row."""
    model = target.model
    for length in target.lengths(target.pick([9, 33], [1, 9, 33, 64, 101])):
        text = target.tokens(1, length, seed=20)
        alone = model(text)
        for padding in (1, 5, 64):
            if length + padding > target.longest:
                continue
            for side in ("left", "right"):
                row, place = padded(target, text, padding, side)
                valid = torch.zeros_like(row, dtype=torch.bool)
                valid[:, place] = True
                yield f"padding of {padding} on the {side}", model(row, valid=valid)[:, place], alone
                documents = (~valid).long() if side == "left" else 1 - valid.long()
                packed = model(row, documents=documents)[:, place]
                yield f"a document of {padding} tokens {'before' if side == 'left' else 'after'} it", packed, alone


def padded(target: AuditTarget, text: Tensor, padding: int, side: str) -> tuple[Tensor, slice]:
    """A row with random tokens next to the text, and where the text stands."""
    length = text.shape[1]
    neighbour = target.tokens(1, padding, seed=21)
    if side == "left":
        return torch.cat((neighbour, text), 1), slice(padding, padding + length)
    return torch.cat((text, neighbour), 1), slice(0, length)


def order_matters(target: AuditTarget) -> Evidence:
    """Exchanging two earlier tokens changes the prediction, unless nothing in the model can tell places apart."""
    length = target.length(12)
    text = target.tokens(1, length, seed=22)
    exchanged = text.clone()
    exchanged[0, 1], exchanged[0, length - 3] = text[0, length - 3], text[0, 1]
    # Both models: sharp attention may look at one token only, whichever way the others are ordered.
    moved = max(
        max_difference(model(exchanged)[:, -1], model(text)[:, -1]) for model in (target.model, target.unperturbed)
    )
    if moved > NOTICED:
        return Evidence("the order of earlier tokens matters")
    if target.recipe.positions.kind == "none" and target.recipe.depth == 1:
        return Evidence("one layer without positions sees a bag of words, as it must")
    return Evidence(
        "exchanging two earlier tokens changes nothing: the model cannot tell their order",
        fault=True,
        measured=moved,
        tolerance=NOTICED,
        mark="ignores the order of tokens",
        meaning="It sees a bag of words; what it scores says nothing about a language model.",
    )


CHECK = Check(
    name="position parity",
    asserts="Padding and packed neighbours, which should not matter, change nothing; the order of tokens does.",
    how="A text alone against the same text behind or before padding and other documents; two tokens exchanged.",
    tolerance="1e-9 standard deviations of the logits in fp64 for what must not matter, at least 1e-6 for what must.",
    means="A token's place is taken from the tensor instead of from its own text: batched, packed and padded texts "
    "get other predictions than single ones.",
    mark="mistakes padding or packing for position",
    gather=gather,
)
