"""What training descends and how held-out tokens are scored: next-token cross-entropy, and room for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from litmus.nn.core.aux_losses import AuxLosses, Sums, is_shared, scored, share_of_step
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part
from litmus.nn.objectives.cross_entropy import cross_entropy, token_cross_entropy


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

    embedding: nn.Embedding
    head: nn.Linear

    def hidden(
        self, tokens: Tensor, *, documents: Tensor | None = None, fast: bool = True, terms: AuxLosses | None = None
    ) -> Tensor:
        """The normed vectors (B, T, dim) that the head turns into logits; layers leave their loss terms in `terms`."""

    def forward_context(
        self, tokens: Tensor, *, documents: Tensor | None = None, fast: bool = True, terms: AuxLosses | None = None
    ) -> ForwardContext:
        """What layers beyond the model's own need to know of tokens (B, T)."""


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

    def forward(
        self,
        model: LanguageModel,
        tokens: Tensor,
        targets: Tensor,
        *,
        documents: Tensor | None = None,
        label_smoothing: float = 0.0,
        fast: bool = True,
    ) -> Loss:
        """The training loss of tokens (B, T) against targets (B, T); targets of -100 are not scored."""
        terms = AuxLosses.before(targets)
        hidden = model.hidden(tokens, documents=documents, fast=fast, terms=terms)
        nats = head_nats(model, hidden, targets, label_smoothing=label_smoothing, fast=fast)
        nats = share_of_step("next_token", nats, scored(targets))
        return with_aux_losses(Loss(nats, {"next_token": nats}), terms)

    def counts(self, targets: Tensor, documents: Tensor | None) -> Sums | None:
        """What the means of the loss are over, by the names of `share_of_step`, where targets (B, T) alone say it.

        None where only a forward pass does, as it draws what it trains.
        """
        return {"next_token": scored(targets)}

    @torch.no_grad()
    def token_losses(
        self, model: LanguageModel, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None
    ) -> Tensor:
        """Nats of each target (B, T), 0 where it is -100: always -log softmax(logits), whatever training descends."""
        hidden = model.hidden(tokens, documents=documents).flatten(0, 1)
        return token_cross_entropy(hidden, model.head.weight, model.head.bias, targets.flatten()).view_as(targets)


def head_nats(
    model: LanguageModel, hidden: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, fast: bool = True
) -> Tensor:
    """Mean nats of the scored targets (B, T) by the model's head on vectors (B, T, dim), in chunks of logits."""
    return cross_entropy(
        hidden.flatten(0, 1),
        model.head.weight,
        model.head.bias,
        targets.flatten(),
        label_smoothing=label_smoothing,
        fast=fast,
    )


def with_aux_losses(loss: Loss, terms: AuxLosses) -> Loss:
    """`loss` with what the layers left: the total takes each layer's weighted term, the parts their mean by name."""
    loss = loss if terms.scored is None else shared(loss, terms.scored)
    parts = {name: torch.stack([value for _, value in left]).mean() for name, left in terms.values.items()}
    weighted = [weight * value for left in terms.values.values() for weight, value in left]
    return Loss(torch.stack([loss.total, *weighted]).sum(), {**loss.parts, **parts}) if weighted else loss


def shared(loss: Loss, count: Tensor) -> Loss:
    """The loss as a share of its step's, where the objective left it a mean over `count` scored targets."""
    if is_shared():
        return loss
    one = torch.ones_like(loss.total)
    share = share_of_step("next_token", one, count)
    return Loss(loss.total * share, {name: part * share for name, part in loss.parts.items()})
