"""All checks in order of importance: the first that fails names the fault."""

from litmus.auditing.check import Check
from litmus.auditing.checks import (
    cache_parity,
    causality,
    costs,
    coverage,
    determinism,
    equivalence,
    forward_pass,
    initialization,
    overfitting,
    position_parity,
    precision,
    prefix_consistency,
)

FORWARD = forward_pass.CHECK
"""Runs before all others, which are skipped if it fails."""

CHECKS: dict[str, Check] = {
    module.CHECK.name: module.CHECK
    for module in (
        causality,
        prefix_consistency,
        cache_parity,
        position_parity,
        coverage,
        equivalence,
        initialization,
        overfitting,
        costs,
        determinism,
        precision,
    )
}
