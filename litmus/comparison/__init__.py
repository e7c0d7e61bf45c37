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
    budget="200 steps", batch=8, context=DEFAULT_CONTEXT, lr=1e-3, validate_tokens=4096, evaluate_tokens=32_768
)
"""About half a minute per trial at size `tiny` on one CPU thread; scores are over the first 32,768 held-out tokens."""
