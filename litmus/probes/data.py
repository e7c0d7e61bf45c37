"""A probe as the data of a training: `--data probe:mqar`."""

from __future__ import annotations

import hashlib

from litmus.data import DataSettings, TokenData, prepare
from litmus.data.messages import Log
from litmus.data.tokens.tokenizer import SymbolTokenizer
from litmus.probes import Probe, probe_named
from litmus.probes.probe import VERSION

PREFIX = "probe:"
"""What begins the name of a corpus that is a probe."""

SAMPLE_EXAMPLES = 16
"""Examples of a split that stand in the place of its token stream."""


def probe_of(settings: DataSettings) -> Probe | None:
    """The probe that these settings name, None if they name a corpus."""
    named = settings.corpus.startswith(PREFIX)
    return probe_named(settings.corpus.removeprefix(PREFIX)) if named else None


def probe_settings(probe: Probe) -> DataSettings:
    """The settings that name a probe with all its options."""
    return DataSettings(corpus=PREFIX + probe.to_name(), tokenizer="symbols")


def token_data(settings: DataSettings, *, log: Log | None = None) -> TokenData:
    """The examples of a probe, or the prepared corpus that the settings name."""
    probe = probe_of(settings)
    if probe is None:
        return prepare(settings, log=log)
    name = probe.to_name()
    sample = {split: probe.batch(0, split, 0, SAMPLE_EXAMPLES)[0].ravel() for split in ("train", "test")}
    provenance = {"corpus": PREFIX + name, "source": probe.about, "tokenizer": "symbols", "vocab_size": probe.vocab}
    fingerprint = hashlib.sha256(f"{VERSION} {name}".encode()).hexdigest()
    return TokenData(
        sample["train"], sample["test"], SymbolTokenizer(probe.vocab), fingerprint, provenance, examples=probe
    )
