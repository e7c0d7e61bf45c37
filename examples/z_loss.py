"""An objective declared by hand: cross-entropy with z-loss (PaLM, arXiv 2204.02311). The score stays as it is."""

from typing import Literal

from torch.nn.functional import cross_entropy

from litmus.nn import AuxLosses, Loss, Objective, ObjectiveConfig, with_aux_losses


class ZLossConfig(ObjectiveConfig):
    kind: Literal["z_loss"] = "z_loss"
    weight: float = 1e-4

    def build(self, layer):
        return ZLoss(self.weight)


class ZLoss(Objective):
    """Next-token cross-entropy + weight · mean (log sum exp of the logits)²."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, model, batch, label_smoothing=0.0):
        targets = batch.targets
        terms = AuxLosses.before(batch)  # where layers leave what they add to the loss
        logits = model.head(model.hidden(batch, aux_losses=terms)).flatten(0, 1)
        scored = targets.flatten() != -100
        count = scored.sum().clamp(min=1)  # a batch with nothing to score has a loss of 0
        nats = cross_entropy(logits, targets.flatten(), reduction="sum", label_smoothing=label_smoothing) / count
        z = (logits.logsumexp(-1).square() * scored).sum() / count
        return with_aux_losses(Loss(nats + self.weight * z, {"next_token": nats, "z": z}), terms)


recipe = {"base": "standard", "objective": {"kind": "z_loss"}, "about": "A penalty on the log sum exp of the logits."}
