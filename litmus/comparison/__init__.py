"""Comparisons: arms on equal terms, paired trials, statistics, verdicts and a report.

Here are only the defaults of `litmus compare`, which its help reads without importing torch.
"""

from __future__ import annotations

from litmus.training.settings import TrainSettings

DEFAULT_ARMS = ("standard", "ssmax", "learned")
"""The built-in baseline, a founding idea, and learned positions, whose difference any three seeds show."""

DEFAULT_SIZE = "tiny"
DEFAULT_SEEDS = 3
DEFAULT_CONTEXT = 128

PROBE_SIZE = {"dim": 64, "depth": 2, "heads": 2}
"""The size of the models that are probed, unless another is asked for."""

PROBE_TRAINING = TrainSettings(
    budget="800 steps",
    batch=64,
    lr=3e-3,
    warmup=0.1,
    validate_tokens=4096,
    checkpoint_every=0,
    checkpoint_minutes=0.5,
)
"""20 to 80 seconds per trial of the default size on one CPU thread. The sweep takes 3e-3 times sqrt(10) to -1, 0, 1."""

DEFAULT_TRAINING = TrainSettings(
    budget="100 steps",
    batch=8,
    context=DEFAULT_CONTEXT,
    lr=1e-3,
    validate_tokens=2048,
    evaluate_tokens=32_768,
    checkpoint_every=0,
    checkpoint_minutes=0.5,
)
"""Half a minute or less per trial at size `tiny` on one CPU thread. A kill costs half a minute of a trial."""
