"""Prefix consistency: a prediction does not depend on the length of the sequence after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from litmus.auditing.check import Check, Evidence, differences, plural
from litmus.auditing.checks.overfitting import learned_model
from litmus.auditing.hooks import first_difference
from litmus.auditing.sizes import own_lengths
from litmus.auditing.target import AuditTarget

PREFIX_LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 101, 127, 128, 129, 150)
FULL_AUDIT_PREFIX_LENGTHS = (199, 255, 256, 257, 400, 511, 512, 513, 1000)
EXTRA_TOKENS = (2, 1, 7, 50)
OWN_LENGTHS_TOKENS = (8_000, 60_000)
FEW_LENGTHS = (9, 33, 64)


def gather(target: AuditTarget) -> Iterator[Evidence]:
    worst, pairs = 0.0, 0
    for prefix, longer in pairs_of_lengths(target):
        expected = target.text_logits(prefix)
        difference = differences(target.text_logits(longer)[:, :prefix], expected)
        worst, pairs = max(worst, float(difference.max())), pairs + 1
        if worst > target.rounding:
            yield fault(target, target.model, prefix, longer, worst, int(difference.argmax()))
            return
    yield Evidence(
        f"a prefix has the same logits alone as in a longer sequence ({plural(pairs, 'pair')} of lengths)",
        measured=worst,
        tolerance=target.rounding,
    )
    if target.reach == target.longest and target.refused:
        yield Evidence(target.refused, skipped=True)
    if (trained := learned_model(target)) is not None:
        yield from consistent_as(target, trained, "after training on one batch")
    if (own_size := target.own_size)[0] is not None:
        yield from consistent_as(target, *own_size)


def pairs_of_lengths(target: AuditTarget) -> Iterator[tuple[int, int]]:
    """(length of a prefix, length of the whole): a few tokens more, and all that are tried."""
    fixed = [*PREFIX_LENGTHS, *target.pick((), FULL_AUDIT_PREFIX_LENGTHS)]
    lengths = [length for length in fixed if length < target.reach]
    if target.affordable < 1:
        lengths = [length for length in (1, 8, 33, 64) if length < target.reach]
    budget = target.pick(*OWN_LENGTHS_TOKENS) * target.affordable
    for length in own_lengths(target, target.reach - 1):
        budget -= length
        if budget > 0:
            lengths.append(length)
    for number, prefix in enumerate(dict.fromkeys(lengths)):
        if number % 4 == 0:
            yield prefix, min(prefix + EXTRA_TOKENS[number // 4 % len(EXTRA_TOKENS)], target.reach)
        yield prefix, target.reach


def consistent_as(target: AuditTarget, model: Any, when: str) -> Iterator[Evidence]:
    """The same of another model than `target.model`, at a few lengths."""
    worst, longer = 0.0, target.length(max(FEW_LENGTHS) + 7)
    whole = target.logits(model, target.text(longer))
    for prefix in FEW_LENGTHS:
        if prefix >= longer:
            continue
        difference = differences(whole[:, :prefix], target.logits(model, target.text(prefix)))
        worst = max(worst, float(difference.max()))
        if worst > target.rounding:
            evidence = fault(target, model, prefix, longer, worst, int(difference.argmax()))
            yield replace(evidence, what=f"{when}, {evidence.what}")
            return
    yield Evidence(f"{when} as well", measured=worst, tolerance=target.rounding)


def fault(target: AuditTarget, model: Any, prefix: int, longer: int, difference: float, position: int) -> Evidence:
    module = first_difference(model, target.text(prefix), target.text(longer), prefix, target.rounding)
    return Evidence(
        f"the logits of {plural(prefix, 'token')} change when {longer - prefix} more follow",
        fault=True,
        measured=difference,
        tolerance=target.rounding,
        where=", ".join(part for part in (module, f"position {position} of {prefix}") if part),
    )


CHECK = Check(
    name="prefix consistency",
    asserts="model(x[:T]) equals model(x[:T+n])[:T].",
    how="The beginnings of a random text, at lengths on and off block edges and at those that the model states, each "
    "against the whole text; once more after training on one batch.",
    tolerance="1e-9 standard deviations of the logits in fp64, as for causality.",
    means="The prediction depends on the length of the tensor it is computed in: a shorter text, a padded batch or a "
    "decoding step gets other predictions than those trained and scored at full length.",
    mark="depends on the sequence's length",
    gather=gather,
    exact=True,
)
