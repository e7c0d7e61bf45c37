"""Which predictions training shapes: what it takes from the target at each position, pass by pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from litmus.audit.losses import training_loss
from litmus.audit.target import AuditTarget
from litmus.audit.vectors import captured
from litmus.model import Decoder

PASSES = (300, 1000)
"""Passes (quick, full) for an objective that draws what it trains.

A prediction that is trained as it is used in one pass of 12, as with one of 4 phases and one of 3 other offsets, is
missed by 300 passes once in 10^11 times; one in 56 (8 phases) once in 220.
"""

SCORING_PASSES = 80
"""So many passes without a loss say that a position gets none: one in 8 would be missed once in 40 000."""

COMPARED = 8
"""At how many positions a random objective is compared with what is used; the others only have to get a loss."""


@dataclass
class Trained:
    """For each position tried: whether some pass put a loss on it, and on the very prediction model(tokens) makes."""

    length: int
    positions: list[int]
    compared: list[int]
    scored: set[int] = field(default_factory=set)
    as_used: set[int] = field(default_factory=set)
    random: bool = False

    @property
    def unscored(self) -> list[int]:
        return [t for t in self.positions if t not in self.scored]

    @property
    def otherwise(self) -> list[int]:
        """Positions that get a loss, but never on the prediction that is used there."""
        return [t for t in self.compared if t in self.scored and t not in self.as_used]


def trained_positions(target: AuditTarget, length: int, positions: list[int]) -> Trained:
    """Score one target at a time in training mode and compare with what model(tokens) predicts there.

    With the target at t alone scored, the loss with target a minus the loss with target b is logits[b] - logits[a] at
    t, in any part of the loss that is a cross-entropy of the model's own prediction. Ratios of two such differences
    leave out weights and denominators.
    """
    model = copy.deepcopy(target.model)
    tokens = target.tokens(1, length, seed=30)
    first = target.tokens(1, length, seed=31)
    candidates = [first, target.others(first, 1), target.others(first, 2)]
    with torch.no_grad():
        predicted = model.eval()(tokens)[0]
    found = Trained(length, positions, positions)
    with torch.no_grad():
        found.random = is_random(model, tokens, first)
        if found.random:
            found.compared = positions[:: max(1, len(positions) // COMPARED)]
        for seed in range(target.pick(*PASSES) if found.random else 1):
            wanted = found.otherwise + [t for t in found.unscored if seed < SCORING_PASSES]
            if not wanted:
                break
            for t in wanted:
                parts = [parts_of(model, tokens, only(wanted, t), seed) for wanted in candidates]
                logits = torch.stack([predicted[t, wanted[0, t]] for wanted in candidates])
                for name in parts[0]:
                    losses = torch.stack([part.get(name, torch.tensor(torch.nan)) for part in parts]).double()
                    if moves(losses):
                        found.scored.add(t)
                        if proportional(losses - losses[0], logits[0] - logits):
                            found.as_used.add(t)
    return found


@torch.no_grad()
def times_trained(target: AuditTarget, length: int, positions: list[int], passes: int) -> dict[int, int]:
    """In how many passes of training each position gets a loss."""
    model = copy.deepcopy(target.model)
    tokens, first = target.tokens(1, length, seed=30), target.tokens(1, length, seed=31)
    times = dict.fromkeys(positions, 0)
    for t in positions:
        targets = [only(wanted, t) for wanted in (first, target.others(first, 1))]
        for seed in range(passes):
            losses = torch.stack([training_loss(model, tokens, wanted, seed=seed).total for wanted in targets])
            times[t] += moves(losses)
    return times


def is_random(model: Decoder, tokens: Tensor, targets: Tensor) -> bool:
    """Whether the training loss of the same tokens differs from seed to seed."""
    return len({training_loss(model, tokens, targets, seed=seed).total.item() for seed in range(4)}) > 1


def parts_of(model: Decoder, tokens: Tensor, targets: Tensor, seed: int) -> dict[str, Tensor]:
    """The named parts of one training loss, and their total."""
    loss = training_loss(model, tokens, targets, seed=seed)
    return {**loss.parts, "total": loss.total}


def only(targets: Tensor, position: int) -> Tensor:
    """Targets of which only the one at `position` is scored."""
    return targets.masked_fill(torch.arange(targets.shape[1]) != position, -100)


def moves(losses: Tensor) -> bool:
    """Whether a loss depends on the target, beyond rounding."""
    return bool((losses - losses[0]).abs().max() > 1e-9 * losses.abs().max().clamp(min=1e-3))


def proportional(a: Tensor, b: Tensor) -> bool:
    """Whether a is a positive multiple of b, to four digits: a loss may be computed in fp32."""
    factor = (a @ b) / (b @ b).clamp(min=1e-30)
    return bool(factor > 0) and bool((a - factor * b).abs().max() <= 1e-4 * a.abs().max())


def repeated_terms(target: AuditTarget, length: int) -> Iterator[tuple[str, int]]:
    """Parts of the loss besides the main one that predict its target from the vector that the main head reads.

    A term that looks further ahead predicts the token at t + 1 from the vector at t - k; where its gradient reaches
    the vector at t itself, it is the next-token loss a second time.
    """
    model = copy.deepcopy(target.model)
    tokens = target.tokens(1, length, seed=30)
    wanted = target.tokens(1, length, seed=31)
    position = length - 2
    main_seen = False
    with captured(model.layers[-1]) as vectors:
        for name in training_loss(model, tokens, wanted, seed=0).parts:
            vectors.clear()
            one = training_loss(model, tokens, only(wanted, position), seed=0).parts[name]
            read = [vector for vector in vectors if vector.requires_grad and vector.shape[:2] == tokens.shape]
            other = training_loss(model, tokens, only(target.others(wanted), position), seed=0).parts[name]
            if not read or not one.requires_grad or not moves(torch.stack((one.detach(), other.detach()))):
                continue
            gradients = torch.autograd.grad(one, read, allow_unused=True)
            if any(gradient is not None and gradient[0, position].any() for gradient in gradients):
                if main_seen:
                    yield name, position
                main_seen = True
