"""Position parity: what should not matter for a token's place changes nothing, and what should does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.audit.check import Check, Evidence, apart, differences
from litmus.audit.subject import Subject

NOTICED = 1e-6
"""The least change, in standard deviations of the logits, that counts as an effect: far above rounding."""


def gather(subject: Subject) -> Iterator[Evidence]:
    worst = 0.0
    with torch.no_grad():
        for what, logits, expected in placements(subject):
            moved = differences(logits, expected)
            worst = max(worst, float(moved.max()))
            if float(moved.max()) > subject.rounding:
                yield Evidence(
                    f"{what} changes the logits of the text itself",
                    fault=True,
                    measured=float(moved.max()),
                    tolerance=subject.rounding,
                    where=f"position {int(moved.argmax())} of the text",
                )
                break
        else:
            yield Evidence("padding and packing shift nothing", measured=worst, tolerance=subject.rounding)
        yield order_matters(subject)


def placements(subject: Subject) -> Iterator[tuple[str, Tensor, Tensor]]:
    """A text alone, against the same text shifted by padding or by other documents before it in the row."""
    model = subject.model
    for length in subject.lengths(subject.pick([9, 33], [1, 9, 33, 64, 101])):
        text = subject.tokens(1, length, seed=20)
        alone = model(text)
        for padding in (1, 5, 64):
            if length + padding > subject.longest:
                continue
            for side in ("left", "right"):
                row, place = padded(subject, text, padding, side)
                valid = torch.zeros_like(row, dtype=torch.bool)
                valid[:, place] = True
                yield f"padding of {padding} on the {side}", model(row, valid=valid)[:, place], alone
                documents = (~valid).long() if side == "left" else 1 - valid.long()
                packed = model(row, documents=documents)[:, place]
                yield f"a document of {padding} tokens {'before' if side == 'left' else 'after'} it", packed, alone


def padded(subject: Subject, text: Tensor, padding: int, side: str) -> tuple[Tensor, slice]:
    """A row with random tokens beside the text, and where the text stands."""
    length = text.shape[1]
    beside = subject.tokens(1, padding, seed=21)
    if side == "left":
        return torch.cat((beside, text), 1), slice(padding, padding + length)
    return torch.cat((text, beside), 1), slice(0, length)


def order_matters(subject: Subject) -> Evidence:
    """Exchanging two earlier tokens changes the prediction, unless nothing in the model can tell places apart."""
    length = subject.length(12)
    text = subject.tokens(1, length, seed=22)
    exchanged = text.clone()
    exchanged[0, 1], exchanged[0, length - 3] = text[0, length - 3], text[0, 1]
    # Both models: sharp attention may look at one token only, whichever way the others are ordered.
    moved = max(apart(model(exchanged)[:, -1], model(text)[:, -1]) for model in (subject.model, subject.unstirred))
    if moved > NOTICED:
        return Evidence("the order of earlier tokens matters")
    if subject.recipe.positions.kind == "none" and subject.recipe.depth == 1:
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
