"""F2 - A multi-token prediction head that predicts the token the main head already predicts.

What was published. The same report prints its multi-token prediction loss as -sum_t log p_mtp(y_t | y_<t): an
extra head on the vector of position t, scored on the very target of the language-model head.

Why it looked fine. The extra loss falls nicely, in step with the main one. It has to: it is the same task.

What it does to results. Nothing is learned about later tokens, so the head cannot draft them at decoding. The main
head gets the same gradient once more, scaled, plus the price of another head: a comparison credits "multi-token
prediction" with what is a different learning rate, or with noise.

The sound version (DeepSeek-V3) joins the vector of position t with the embedding of the next token, runs one block,
and predicts the token after that one: in this file, read the vector of position t and score it on targets[:, t + 1].
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.nn import Batch, LayerContext, Loss, Objective, ObjectiveConfig, linear


class MtpSameTargetConfig(ObjectiveConfig):
    kind: Literal["mtp_same_target"] = "mtp_same_target"
    weight: float = 0.3

    def build(self, layer: LayerContext) -> Objective:
        return MtpSameTarget(self, layer)


class MtpSameTarget(Objective):
    """Next-token cross-entropy + weight · cross-entropy of an extra head; both end in the model's own head."""

    def __init__(self, config: MtpSameTargetConfig, layer: LayerContext) -> None:
        super().__init__()
        self.weight = config.weight
        self.transform = nn.Sequential(linear(layer.dim, layer.dim), nn.GELU(), linear(layer.dim, layer.dim))
        self.norm = layer.norm()

    def forward(self, model, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        hidden, targets = model.hidden(batch), batch.targets
        main = mean_nats(model.head(hidden), targets, label_smoothing)
        # The fault: position t of the extra head is scored on targets[:, t], which the main head predicts from it too.
        extra = mean_nats(model.head(self.norm(hidden + self.transform(hidden))), targets, label_smoothing)
        return Loss(main + self.weight * extra, {"next_token": main, "mtp": extra})


def mean_nats(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy over the scored targets, 0 when there are none."""
    exact = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(exact, targets.flatten(), reduction="sum", label_smoothing=label_smoothing)
    return total / (targets != -100).sum().clamp(min=1)


recipe = {
    "base": "standard",
    "about": "Specimen F2 - a multi-token prediction head with the main head's own target.",
    "objective": {"kind": "mtp_same_target"},
}
