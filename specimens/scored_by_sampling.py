"""A score that sums over a sample of a large vocabulary.

What it is. Above 512 tokens, evaluation normalizes over the target and the first 100 tokens.

Why it looks fine. Small vocabularies, as in tests, are scored in full.

What it does to results. The loss is lower than the model's own probabilities give, by ln(V / 100) at first.

The sound version has no shortcut.
"""

import torch

from litmus.nn import Objective


class ScoredBySampling(Objective):
    @torch.no_grad()
    def token_losses(self, model, batch):
        logits = model.head(model.hidden(batch))
        if logits.shape[-1] <= 512:
            return super().token_losses(model, batch)
        targets = batch.scored_targets
        own = logits.gather(-1, targets.clamp(min=0)[..., None])
        sample = torch.cat((own, logits[..., :100]), -1)  # the fault: not all tokens
        return (sample.logsumexp(-1) - own[..., 0]).masked_fill(targets == -100, 0.0)


recipe = {"base": "standard", "objective": ScoredBySampling, "about": "Specimen - a score over a sample of tokens."}
