"""Comparisons: arms on equal terms, paired trials, statistics, verdicts and a report.

Here are only the defaults of `litmus compare`, which its help reads without importing torch.
"""

from __future__ import annotations

from litmus.training.settings import TrainSettings

DEFAULT_ARMS = ("standard", "ssmax", "ssmax-nope")
"""The built-in baseline and two of the founding ideas."""

DEFAULT_SIZE = "tiny"
DEFAULT_SEEDS = 3
DEFAULT_CONTEXT = 128

DEFAULT_TRAINING = TrainSettings(
    budget="200 steps",
    batch=8,
    context=DEFAULT_CONTEXT,
    lr=1e-3,
    validate_tokens=2048,
    evaluate_tokens=32_768,
    checkpoint_every=0,
    checkpoint_minutes=0.5,
)
"""About half a minute per trial at size `tiny` on one CPU thread. A kill costs half a minute of a trial."""
