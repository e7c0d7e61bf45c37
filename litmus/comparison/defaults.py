"""What `litmus compare` does when it is not told otherwise; readable without torch, for the command's own help."""

from __future__ import annotations

from litmus.training.settings import TrainSettings

ARMS = ("standard", "ssmax", "ssmax-nope")
"""The lab's baseline and two of the founding ideas."""

SIZE = "tiny"
SEEDS = 3
CONTEXT = 128

TRAINING = TrainSettings(
    budget="200 steps", batch=8, context=CONTEXT, lr=1e-3, validate_tokens=4096, evaluate_tokens=32_768
)
"""About half a minute per trial at size `tiny` on one CPU thread; scores are over the first 32,768 held-out tokens."""
