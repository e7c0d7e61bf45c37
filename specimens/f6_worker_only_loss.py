"""F6 - Loss, in training and in validation, at every k-th position only.

What was published. WorkerTransformer updates only every k-th position (a "worker") and takes the loss only there,
in training and in validation. Its baseline is scored at every position.

Why it looked fine. Both numbers are called validation loss and both are means of a cross-entropy.

What it does to results. Three tokens in four are never trained on and never scored, so `logits` at their positions
mean nothing, and the two means are over different tokens. At equal steps the project's own log has the baseline
ahead all the same, 1.2479 against 1.3195.

The sound version trains and scores every position. A model that is cheap because it leaves positions out must still
say what it predicts there.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from litmus.nn import Batch, LayerContext, Loss, Objective, ObjectiveConfig


class WorkerOnlyLossConfig(ObjectiveConfig):
    kind: Literal["worker_only_loss"] = "worker_only_loss"
    every: int = 4

    def build(self, layer: LayerContext) -> Objective:
        return WorkerOnlyLoss(self)


class WorkerOnlyLoss(Objective):
    """Next-token cross-entropy over the positions k-1, 2k-1, 3k-1, ..."""

    def __init__(self, config: WorkerOnlyLossConfig) -> None:
        super().__init__()
        self.every = config.every

    def forward(self, model, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        return super().forward(model, self.at_workers(batch), label_smoothing)

    @torch.no_grad()
    def token_losses(self, model, batch: Batch) -> Tensor:
        return super().token_losses(model, self.at_workers(batch))

    def at_workers(self, batch: Batch) -> Batch:
        """The fault: targets (B, T) with -100 everywhere but at the workers."""
        index = torch.arange(batch.targets.shape[1], device=batch.targets.device)
        return replace(batch, targets=batch.targets.masked_fill(index % self.every != self.every - 1, -100))


recipe = {
    "base": "standard",
    "about": "Specimen F6 - loss at every fourth position only, in training and in validation.",
    "objective": {"kind": "worker_only_loss"},
}
