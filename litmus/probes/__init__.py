"""Probes: synthetic tasks that each need one ability, with examples generated from a seed."""

from __future__ import annotations

from typing import Any

from litmus.errors import BadInput, nearest, shown
from litmus.probes.addition import Addition
from litmus.probes.compression import Compression
from litmus.probes.copying import Copying
from litmus.probes.induction import FuzzyInduction, Induction, NoisyInduction
from litmus.probes.kth_token import KthToken
from litmus.probes.length_generalization import LengthGeneralization
from litmus.probes.memorization import Memorization
from litmus.probes.mqar import Mqar
from litmus.probes.needle import Needle, Passkey
from litmus.probes.probe import Probe, with_options
from litmus.probes.selective_copying import SelectiveCopying
from litmus.probes.state_tracking import Parity, Permutations

PROBES: dict[str, type[Probe]] = {
    kind.name: kind
    for kind in (
        Mqar, SelectiveCopying, Induction, NoisyInduction, FuzzyInduction, Copying, KthToken, Compression, Memorization,
        Needle, Passkey, LengthGeneralization, Addition, Parity, Permutations,
    )
}  # fmt: skip


def probe_named(text: str) -> Probe:
    """The probe of "mqar", or of "mqar:length=64,pairs=8" with options; BadInput for one that does not exist."""
    name, _, options = text.partition(":")
    if name not in PROBES:
        raise BadInput(f"unknown probe {shown(name)}; {nearest(name, PROBES)}")
    given: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise BadInput(f"probe {name}: {shown(option)} is no option; valid is KEY=VALUE, such as length=64")
        given[key.strip()] = value.strip()
    return with_options(PROBES[name], given)


__all__ = ["PROBES", "Probe", "probe_named"]
