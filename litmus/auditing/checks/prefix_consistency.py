"""Prefix consistency: a prediction does not depend on how long the sequence goes on."""

from __future__ import annotations

from collections.abc import Iterator

from litmus.auditing.check import Check, Evidence, differences, plural
from litmus.auditing.hooks import first_difference
from litmus.auditing.target import AuditTarget

MORE = (1, 2, 7, 50)
PREFIXES = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 101, 127, 128, 129, 150)
LONG_PREFIXES = (199, 255, 256, 257, 400, 511, 512, 513, 1000)


def gather(target: AuditTarget) -> Iterator[Evidence]:
    worst, pairs = 0.0, 0
    for prefix in target.lengths([*PREFIXES, *target.pick((), LONG_PREFIXES)]):
        more = MORE[prefix % len(MORE)] if target.quick else max(MORE)
        longer = target.length(prefix + more)
        if longer == prefix or longer > 1100:
            continue
        tokens = target.tokens(1, longer, seed=2)
        moved = differences(
            target.logits(target.model, tokens)[:, :prefix], target.logits(target.model, tokens[:, :prefix])
        )
        worst, pairs = max(worst, float(moved.max())), pairs + 1
        if worst > target.rounding:
            place = first_difference(target.model, tokens[:, :prefix], tokens, prefix, target.rounding)
            yield Evidence(
                f"the logits of {plural(prefix, 'token')} change when {longer - prefix} more follow",
                fault=True,
                measured=worst,
                tolerance=target.rounding,
                where=", ".join(part for part in (place, f"position {int(moved.argmax())} of {prefix}") if part),
            )
            return
    yield Evidence(
        f"a prefix gives the same logits alone as within a longer sequence ({plural(pairs, 'pair')} of lengths)",
        measured=worst,
        tolerance=target.rounding,
    )


CHECK = Check(
    name="prefix consistency",
    asserts="model(x[:T]) equals model(x[:T+n])[:T].",
    how="Random sequences of many lengths, on and off block edges, each alone and with more tokens behind it.",
    tolerance="1e-9 standard deviations of the logits in fp64, as for causality.",
    means="The prediction depends on the length of the tensor it is computed in: what is trained and scored at full "
    "length is not what a shorter text, a padded batch or a decoding step gets.",
    mark="depends on the sequence's length",
    gather=gather,
)
