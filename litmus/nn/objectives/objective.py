"""What training descends and how held-out tokens are scored: next-token cross-entropy, and room for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from litmus.nn.core.aux_losses import AuxLosses, Sums, is_shared, scored, share_of_step
from litmus.nn.core.batch import Batch
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part
from litmus.nn.objectives.cross_entropy import cross_entropy, head_cross_entropy, token_cross_entropy


@dataclass
class Loss:
    """`total` is what training descends, in nats per scored token; `parts` are its terms by name, unweighted.

    Each term is a mean over what it is about, and 0 with a gradient of 0 where a batch has nothing of that. Of a batch
    that is one of several of a training step, all are its shares of the step's (`litmus.nn.core.aux_losses`).
    """

    total: Tensor
    parts: dict[str, Tensor]


class LanguageModel(Protocol):
    """What an objective needs of the model it trains: vectors for tokens, and the shared embedding and head."""

    embedding: nn.Module
    head: nn.Module

    def hidden(self, batch: Batch, *, aux_losses: AuxLosses | None = None) -> Tensor:
        """The normed vectors (B, T, dim) that the head turns into logits; layers add loss terms to `aux_losses`."""

    def forward_context(self, batch: Batch, *, aux_losses: AuxLosses | None = None) -> ForwardContext:
        """The context of the batch, for layers beyond the model's own."""


class ObjectiveConfig(Part):
    """How a model is trained and scored."""

    family: ClassVar[str] = "objective"


class NextTokenConfig(ObjectiveConfig):
    kind: Literal["next_token"] = "next_token"

    def build(self, layer: LayerContext) -> Objective:
        return Objective()


class Objective(nn.Module):
    """Cross-entropy of each token given those before it; objectives with auxiliary terms extend it."""

    scored_share: float = 1.0
    """How much of a training batch's targets the loss is over, for objectives that draw some of them."""

    def forward(self, model: LanguageModel, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        """The training loss of the batch's targets, which -100 leaves out."""
        targets = batch.scored_targets
        aux_losses = AuxLosses.before(targets)
        nats = head_nats(model, model.hidden(batch, aux_losses=aux_losses), targets, label_smoothing)
        nats = share_of_step("next_token", nats, scored(targets))
        return with_aux_losses(Loss(nats, {"next_token": nats}), aux_losses)

    def counts(self, batch: Batch) -> Sums | None:
        """What the means of the loss are over, by the names of `share_of_step`, where the batch alone tells.

        None where only a forward pass does, as it draws what it trains.
        """
        return {"next_token": scored(batch.scored_targets)}

    @torch.no_grad()
    def token_losses(self, model: LanguageModel, batch: Batch) -> Tensor:
        """Nats of each target (B, T), 0 where it is -100: always -log softmax(logits), whatever training minimizes."""
        hidden, targets = model.hidden(batch).flatten(0, 1), batch.scored_targets
        return token_cross_entropy(model.head, hidden, targets.flatten()).view_as(targets)


def head_nats(model: LanguageModel, hidden: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean nats of the scored targets (B, T) by the model's head on vectors (B, T, dim), in chunks of logits."""
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    if isinstance(model.head, nn.Linear) and type(model.head).forward is nn.Linear.forward:
        return cross_entropy(hidden, model.head.weight, model.head.bias, targets, label_smoothing=label_smoothing)
    return head_cross_entropy(model.head, hidden, targets, label_smoothing=label_smoothing)


def with_aux_losses(loss: Loss, aux_losses: AuxLosses) -> Loss:
    """`loss` with the layers' terms: the total takes each layer's weighted term, the parts their mean by name."""
    loss = loss if aux_losses.scored is None else shared(loss, aux_losses.scored)
    parts = {name: torch.stack([value for _, value in terms]).mean() for name, terms in aux_losses.values.items()}
    weighted = [weight * value for terms in aux_losses.values.values() for weight, value in terms]
    return Loss(torch.stack([loss.total, *weighted]).sum(), {**loss.parts, **parts}) if weighted else loss


def shared(loss: Loss, count: Tensor) -> Loss:
    """The loss as a share of its step's, where the objective left it a mean over `count` scored targets."""
    if is_shared():
        return loss
    one = torch.ones_like(loss.total)
    share = share_of_step("next_token", one, count)
    return Loss(loss.total * share, {name: part * share for name, part in loss.parts.items()})
