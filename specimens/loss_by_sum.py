"""A loss that is the sum over tokens.

What it is. `reduction="sum"`: the loss grows with the batch and its length.

Why it looks fine. AdamW divides by the size of the gradient, so that training works as before.

What it does to results. Clipping, gradient accumulation and auxiliary losses, which are means, lose their meaning; the
training loss is comparable with no other.

The sound version is the mean over the scored targets.
"""

from torch.nn import functional as F

from litmus.nn import AuxLosses, Loss, Objective, with_aux_losses


class LossBySum(Objective):
    def forward(self, model, batch, label_smoothing=0.0):
        losses = AuxLosses.before(batch)
        logits = model.head(model.hidden(batch, aux_losses=losses)).transpose(1, 2)
        nats = F.cross_entropy(
            logits,
            batch.scored_targets,
            label_smoothing=label_smoothing,
            reduction="sum",  # the fault
        )
        return with_aux_losses(Loss(nats, {"next_token": nats}), losses)


recipe = {"base": "standard", "objective": LossBySum, "about": "Specimen - a loss that grows with the batch."}
