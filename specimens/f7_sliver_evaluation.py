"""F7 - Held-out loss from a sliver of the held-out text.

What was published. WorkerTransformer validates on windows with stride 1, unshuffled, and stops after a few batches:
about the first 1 823 characters of its validation split are ever scored.

Why it looked fine. The number of windows is large, and the figure is steady from one evaluation to the next: it is
always the same few lines.

What it does to results. The figure says how well the model does on one scene of one play. Between two architectures
the luck of those lines is larger than most differences that are claimed.

The sound version scores every target it is handed, once each, over the whole held-out split; `Objective.token_losses`
does, so one would delete the override below.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from litmus.nn import Batch, LayerContext, Objective, ObjectiveConfig


class SliverEvaluationConfig(ObjectiveConfig):
    kind: Literal["sliver_evaluation"] = "sliver_evaluation"
    scored: int = 32

    def build(self, layer: LayerContext) -> Objective:
        return SliverEvaluation(self)


class SliverEvaluation(Objective):
    """Trains on every token; scores the first few of what it is handed."""

    def __init__(self, config: SliverEvaluationConfig) -> None:
        super().__init__()
        self.scored = config.scored

    @torch.no_grad()
    def token_losses(self, model, batch: Batch) -> Tensor:
        sliver = batch.targets.flatten().clone()
        sliver[self.scored :] = -100  # the fault: "validation is slow, a few tokens will do"
        return super().token_losses(model, replace(batch, targets=sliver.view_as(batch.targets)))


recipe = {
    "base": "standard",
    "about": "Specimen F7 - held-out loss from a sliver of the held-out text.",
    "objective": {"kind": "sliver_evaluation"},
}
