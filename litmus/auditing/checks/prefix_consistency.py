"""Prefix consistency: a prediction does not depend on the length of the sequence after it."""

from __future__ import annotations

from collections.abc import Iterator

from litmus.auditing.check import Check, Evidence, differences, plural
from litmus.auditing.hooks import first_difference
from litmus.auditing.target import AuditTarget

EXTRA_TOKENS = (1, 2, 7, 50)
PREFIX_LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 101, 127, 128, 129, 150)
FULL_AUDIT_PREFIX_LENGTHS = (199, 255, 256, 257, 400, 511, 512, 513, 1000)


def gather(target: AuditTarget) -> Iterator[Evidence]:
    worst, pairs = 0.0, 0
    for prefix in target.lengths([*PREFIX_LENGTHS, *target.pick((), FULL_AUDIT_PREFIX_LENGTHS)]):
        extra = EXTRA_TOKENS[prefix % len(EXTRA_TOKENS)] if target.quick else max(EXTRA_TOKENS)
        longer = target.length(prefix + extra)
        if longer == prefix or longer > 1100:
            continue
        tokens = target.tokens(1, longer, seed=2)
        difference = differences(
            target.logits(target.model, tokens)[:, :prefix], target.logits(target.model, tokens[:, :prefix])
        )
        worst, pairs = max(worst, float(difference.max())), pairs + 1
        if worst > target.rounding:
            module = first_difference(target.model, tokens[:, :prefix], tokens, prefix, target.rounding)
            yield Evidence(
                f"the logits of {plural(prefix, 'token')} change when {longer - prefix} more follow",
                fault=True,
                measured=worst,
                tolerance=target.rounding,
                where=", ".join(part for part in (module, f"position {int(difference.argmax())} of {prefix}") if part),
            )
            return
    yield Evidence(
        f"a prefix has the same logits alone as in a longer sequence ({plural(pairs, 'pair')} of lengths)",
        measured=worst,
        tolerance=target.rounding,
    )


CHECK = Check(
    name="prefix consistency",
    asserts="model(x[:T]) equals model(x[:T+n])[:T].",
    how="Random sequences of many lengths, on and off block edges, each alone and followed by more tokens.",
    tolerance="1e-9 standard deviations of the logits in fp64, as for causality.",
    means="The prediction depends on the length of the tensor it is computed in: a shorter text, a padded batch or a "
    "decoding step gets other predictions than those trained and scored at full length.",
    mark="depends on the sequence's length",
    gather=gather,
)
