"""Objectives: the training loss and the scoring of held-out tokens; the default is next-token cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from litmus.nn.core.aux_losses import AuxLosses, Sums, is_shared, scored, share_of_step
from litmus.nn.core.batch import IGNORED, Batch, use_reference
from litmus.nn.core.forward_context import ForwardContext
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part
from litmus.nn.objectives.cross_entropy import cross_entropy, head_cross_entropy, scored_only, token_cross_entropy


@dataclass
class Loss:
    """`total` is the training loss in nats per scored token; `parts` are its unweighted terms by name.

    Each term is a mean, and 0 with a zero gradient if a batch has no elements for it. For a micro-batch, all are its
    summands of the means over the step (`litmus.nn.core.aux_losses`).
    """

    total: Tensor
    parts: dict[str, Tensor]


class LanguageModel(Protocol):
    """The interface of a model that objectives use."""

    head: nn.Module

    def hidden(self, batch: Batch, *, aux_losses: AuxLosses | None = None, queries: Any = None) -> Tensor:
        """Hidden states (B, T, dim), the head's input, or those of `queries`; layers add to `aux_losses`."""

    def embed(self, tokens: Tensor, ctx: ForwardContext) -> Tensor:
        """The embeddings (B, T, dim) of tokens (B, T)."""

    def forward_context(self, batch: Batch, *, aux_losses: AuxLosses | None = None) -> ForwardContext:
        """The context of the batch, for additional layers of the objective."""


class ObjectiveConfig(Part):
    """Base config of objectives."""

    family: ClassVar[str] = "objective"


class NextTokenConfig(ObjectiveConfig):
    kind: Literal["next_token"] = "next_token"

    def build(self, layer: LayerContext) -> Objective:
        return Objective()


class Objective(nn.Module):
    """Next-token cross-entropy, the base class of objectives."""

    scored_share: float = 1.0
    """Fraction of a training batch's targets that are scored; below 1 for objectives that sample them."""

    def forward(self, model: LanguageModel, batch: Batch, label_smoothing: float = 0.0) -> Loss:
        """The training loss of a batch with targets; targets of -100 are skipped."""
        targets = batch.scored_targets
        aux_losses = AuxLosses.before(batch)
        hidden = model.hidden(batch, aux_losses=aux_losses)
        nats = head_nats(model, hidden, targets, label_smoothing, max_scored=batch.max_scored)
        nats = share_of_step("next_token", nats, scored(targets))
        return with_aux_losses(Loss(nats, {"next_token": nats}), aux_losses)

    def counts(self, batch: Batch) -> Sums | None:
        """The counts over which the loss terms are means, by the names given to `share_of_step`.

        None if only a forward pass determines them, because it samples the tokens to score.
        """
        return {"next_token": scored(batch.scored_targets)}

    @torch.no_grad()
    def token_losses(self, model: LanguageModel, batch: Batch) -> Tensor:
        """Cross-entropy (B, T) of each target in nats, 0 where it is -100; -log softmax(logits) for every objective."""
        hidden, targets = model.hidden(batch).flatten(0, 1), batch.scored_targets
        flat = targets.flatten()
        if batch.max_scored is None or batch.max_scored >= len(flat):
            return token_cross_entropy(model.head, hidden, flat).view_as(targets)
        index = (flat != IGNORED).nonzero().squeeze(1)
        nats = token_cross_entropy(model.head, hidden[index], flat[index])
        return nats.new_zeros(len(flat)).index_copy(0, index, nats).view_as(targets)


def head_nats(
    model: LanguageModel,
    hidden: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    *,
    max_scored: int | None = None,
) -> Tensor:
    """Mean cross-entropy in nats of the scored targets (B, T), from the head's input (B, T, dim), in chunks.

    With `max_scored`, an upper bound of their number, the head computes no logits of other targets.
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    if max_scored is not None and max_scored < len(targets) and not use_reference():
        hidden, targets = scored_only(hidden, targets, max_scored)
    if isinstance(model.head, nn.Linear) and type(model.head).forward is nn.Linear.forward:
        return cross_entropy(hidden, model.head.weight, model.head.bias, targets, label_smoothing=label_smoothing)
    return head_cross_entropy(model.head, hidden, targets, label_smoothing=label_smoothing)


def with_aux_losses(loss: Loss, aux_losses: AuxLosses) -> Loss:
    """`loss` plus auxiliary losses: `total` gets their weighted sum, `parts` their mean over layers by name."""
    loss = loss if aux_losses.scored is None else shared(loss, aux_losses.scored)
    parts = {name: torch.stack([value for _, value in terms]).mean() for name, terms in aux_losses.values.items()}
    weighted = [weight * value for terms in aux_losses.values.values() for weight, value in terms]
    return Loss(torch.stack([loss.total, *weighted]).sum(), {**loss.parts, **parts}) if weighted else loss


def shared(loss: Loss, count: Tensor) -> Loss:
    """The loss scaled to its summand of the step's mean, unless the objective has done so by `share_of_step`."""
    if is_shared():
        return loss
    one = torch.ones_like(loss.total)
    share = share_of_step("next_token", one, count)
    return Loss(loss.total * share, {name: part * share for name, part in loss.parts.items()})
