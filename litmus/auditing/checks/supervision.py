"""Which predictions the training objective supervises: how its loss depends on the target at each position."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from litmus.auditing.hooks import captured, training_loss
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder

RANDOM_PASSES = (300, 1000)
"""Number of training passes (quick, full) for objectives that sample which positions are trained.

300 passes miss a prediction that is trained in one pass of 12 (4 phases x 3 offsets) with probability 1e-11, and one
that is trained in one pass of 56 (8 phases) with probability 1/220.
"""

MAX_PASSES_WITHOUT_LOSS = 80
"""After this many passes without a loss a position counts as unscored; one scored in 1 of 8 passes: p = 1/40,000."""

MAX_COMPARED_POSITIONS = 8
"""With a random objective, predictions are compared at about this many positions; the others only need a loss."""


@dataclass
class Supervision:
    """Per position: `scored` if some pass has a loss on its target, `matched` if on the prediction of model(tokens)."""

    length: int
    positions: list[int]
    compared: list[int]
    scored: set[int] = field(default_factory=set)
    matched: set[int] = field(default_factory=set)
    random: bool = False

    @property
    def unscored(self) -> list[int]:
        return [t for t in self.positions if t not in self.scored]

    @property
    def mismatched(self) -> list[int]:
        """Positions with a loss, but never on the prediction that model(tokens) makes there."""
        return [t for t in self.compared if t in self.scored and t not in self.matched]


def supervision(target: AuditTarget, length: int, positions: list[int]) -> Supervision:
    """Score one target at a time in training mode and compare with the prediction of model(tokens).

    If only the target at t is scored, loss(target a) - loss(target b) = logits[t, b] - logits[t, a] for every term of
    the loss that is a cross-entropy of the model's own prediction. Ratios of two such differences are independent of
    weights and denominators.
    """
    model = copy.deepcopy(target.model)
    tokens = target.tokens(1, length, seed=30)
    first = target.tokens(1, length, seed=31)
    candidates = [first, target.other_tokens(first, 1), target.other_tokens(first, 2)]
    with torch.no_grad():
        predicted = model.eval()(tokens)[0]
    found = Supervision(length, positions, positions)
    with torch.no_grad():
        found.random = is_random(model, tokens, first)
        if found.random:
            found.compared = positions[:: max(1, len(positions) // MAX_COMPARED_POSITIONS)]
        for seed in range(target.pick(*RANDOM_PASSES) if found.random else 1):
            remaining = found.mismatched + [t for t in found.unscored if seed < MAX_PASSES_WITHOUT_LOSS]
            if not remaining:
                break
            for t in remaining:
                parts = [loss_parts(model, tokens, only_target_at(targets, t), seed) for targets in candidates]
                logits = torch.stack([predicted[t, targets[0, t]] for targets in candidates])
                for name in parts[0]:
                    losses = torch.stack([part.get(name, torch.tensor(torch.nan)) for part in parts]).double()
                    if depends_on_target(losses):
                        found.scored.add(t)
                        if proportional(losses - losses[0], logits[0] - logits):
                            found.matched.add(t)
    return found


@torch.no_grad()
def loss_counts(target: AuditTarget, length: int, positions: list[int], passes: int) -> dict[int, int]:
    """In how many of `passes` training passes each position has a loss."""
    model = copy.deepcopy(target.model)
    tokens, first = target.tokens(1, length, seed=30), target.tokens(1, length, seed=31)
    times = dict.fromkeys(positions, 0)
    for t in positions:
        targets = [only_target_at(wanted, t) for wanted in (first, target.other_tokens(first, 1))]
        for seed in range(passes):
            losses = torch.stack([training_loss(model, tokens, wanted, seed=seed).total for wanted in targets])
            times[t] += depends_on_target(losses)
    return times


def is_random(model: Decoder, tokens: Tensor, targets: Tensor) -> bool:
    """Whether the training loss of the same tokens depends on the seed."""
    return len({training_loss(model, tokens, targets, seed=seed).total.item() for seed in range(4)}) > 1


def loss_parts(model: Decoder, tokens: Tensor, targets: Tensor, seed: int) -> dict[str, Tensor]:
    """The named parts of the training loss, and its total."""
    loss = training_loss(model, tokens, targets, seed=seed)
    return {**loss.parts, "total": loss.total}


def only_target_at(targets: Tensor, position: int) -> Tensor:
    """`targets` with all but the one at `position` set to -100."""
    return targets.masked_fill(torch.arange(targets.shape[1]) != position, -100)


def depends_on_target(losses: Tensor) -> bool:
    """Whether losses for different targets differ by more than rounding."""
    return bool((losses - losses[0]).abs().max() > 1e-9 * losses.abs().max().clamp(min=1e-3))


def proportional(a: Tensor, b: Tensor) -> bool:
    """Whether a is a positive multiple of b, to four digits because a loss may be computed in fp32."""
    factor = (a @ b) / (b @ b).clamp(min=1e-30)
    return bool(factor > 0) and bool((a - factor * b).abs().max() <= 1e-4 * a.abs().max())


def duplicated_terms(target: AuditTarget, length: int) -> Iterator[tuple[str, int]]:
    """Terms of the loss that predict the main head's target from the main head's vector; name and position.

    A term that predicts further ahead predicts the token at t + 1 from the vector at t - k. If its gradient reaches
    the vector at t, it is a second next-token loss.
    """
    model = copy.deepcopy(target.model)
    tokens = target.tokens(1, length, seed=30)
    wanted = target.tokens(1, length, seed=31)
    position = length - 2
    main_seen = False
    with captured(model.layers[-1]) as vectors:
        for name in training_loss(model, tokens, wanted, seed=0).parts:
            vectors.clear()
            one = training_loss(model, tokens, only_target_at(wanted, position), seed=0).parts[name]
            read = [vector for vector in vectors if vector.requires_grad and vector.shape[:2] == tokens.shape]
            other = training_loss(model, tokens, only_target_at(target.other_tokens(wanted), position), seed=0).parts[
                name
            ]
            if not read or not one.requires_grad or not depends_on_target(torch.stack((one.detach(), other.detach()))):
                continue
            gradients = torch.autograd.grad(one, read, allow_unused=True)
            if any(gradient is not None and gradient[0, position].any() for gradient in gradients):
                if main_seen:
                    yield name, position
                main_seen = True
