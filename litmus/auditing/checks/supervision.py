"""Which predictions the training objective supervises: how its loss depends on the target at each position."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.hooks import captured, training_logits, training_loss
from litmus.auditing.target import AuditTarget

RANDOM_PASSES = 1000
"""Most training passes for objectives that sample which positions are trained; few need more than a hundred."""

TIMES_MET, MANY_OUTCOMES = 6, 60
"""A search among random passes ends when it has met every outcome this often: one that is still missing is then much
rarer than the others (Good and Turing: its probability is about the share of outcomes met once). It also ends when
nearly all of this many outcomes were new, because such a search has no end."""

MAX_PASSES_WITHOUT_LOSS = 80
"""After this many passes without a loss a position counts as unscored; one scored in 1 of 8 passes: p = 1/40,000."""

MAX_COMPARED_POSITIONS = 8
"""With a random objective, predictions are compared at about this many positions; the others only need a loss."""

MAX_DEVIATION_IN_TRAINING = 1.0
"""Deviation of noisy predictions, averaged over passes in training mode, from those in evaluation mode, in standard
deviations of the latter: 1.4 for unrelated ones."""

NOISY_PASSES = 24


@dataclass
class Supervision:
    """Per position: `scored` if some pass has a loss on its target, `matched` if on the prediction of model(tokens)."""

    length: int
    positions: list[int]
    compared: list[int]
    scored: set[int] = field(default_factory=set)
    matched: set[int] = field(default_factory=set)
    random: bool = False
    noisy: bool = False
    """Predictions in training mode are random too, whatever the objective does."""

    @property
    def unscored(self) -> list[int]:
        return [t for t in self.positions if t not in self.scored]

    @property
    def mismatched(self) -> list[int]:
        """Positions with a loss, but never on the prediction that model(tokens) makes there."""
        return [t for t in self.compared if t in self.scored and t not in self.matched]


DRAWS = 8
"""Passes by which randomness is seen: a mask over a few layers is often the same in two."""


@torch.no_grad()
def supervision(target: AuditTarget, length: int, positions: list[int]) -> Supervision:
    """Score one target at a time in training mode and compare with the prediction of model(tokens).

    If only the target at t is scored, loss(target a) - loss(target b) = logits[t, b] - logits[t, a] for every term of
    the loss that is a cross-entropy of the model's own prediction. Ratios of two such differences are independent of
    weights and denominators. If noise changes the predictions in training, a pass is compared with the predictions
    under the same seed, and their mean with those in evaluation mode.
    """
    model = copy.deepcopy(target.model)
    tokens = target.tokens(1, length, seed=30)
    first = target.tokens(1, length, seed=31)
    candidates = [first, target.other_tokens(first, 1), target.other_tokens(first, 2)]
    predicted = model.eval()(tokens)[0]
    found = Supervision(length, positions, positions)
    found.random = is_random(model, tokens, first)
    if found.random:
        found.compared = positions[:: max(1, len(positions) // MAX_COMPARED_POSITIONS)]
        once, *others = (training_logits(model, tokens, seed=seed) for seed in range(DRAWS))
        found.noisy = not all(torch.equal(once, other) for other in others)
    outcomes: dict[int, Counter[float]] = {t: Counter() for t in positions}
    for seed in range((NOISY_PASSES if found.noisy else RANDOM_PASSES) if found.random else 1):
        searched = [t for t in found.mismatched if not settled(outcomes[t])]
        remaining = searched + [t for t in found.unscored if seed < MAX_PASSES_WITHOUT_LOSS]
        if not remaining:
            break
        noisy = training_logits(model, tokens, seed=seed)[0] if found.noisy else predicted
        for t in remaining:
            parts = [loss_parts(model, tokens, only_target_at(targets, t), seed) for targets in candidates]
            chosen = [targets[0, t] for targets in candidates]
            for name in parts[0]:
                losses = torch.stack([part.get(name, torch.tensor(torch.nan)) for part in parts]).double()
                if depends_on_target(losses):
                    found.scored.add(t)
                    if any(agree(losses, logits[t, chosen]) for logits in (noisy, predicted)):
                        found.matched.add(t)
                if name == "total" and depends_on_target(losses):
                    outcomes[t][round(float(losses[1] - losses[0]), 6)] += 1
    if found.noisy and not found.mismatched:
        found.matched -= set(unlike_evaluation(model, tokens, predicted, found.compared))
    elif found.noisy:
        found.compared = [t for t in found.compared if t in found.matched]  # the objective draws before the model does
    return found


def settled(outcomes: Counter[float]) -> bool:
    """Whether more passes would most probably show no other outcome than these, or have no end."""
    passes = outcomes.total()
    return passes >= 2 * TIMES_MET and (
        min(outcomes.values()) >= TIMES_MET or (passes >= MANY_OUTCOMES and len(outcomes) > 0.8 * passes)
    )


def agree(losses: Tensor, logits: Tensor) -> bool:
    """Whether the losses of several targets differ as cross-entropies of these logits do."""
    return proportional(losses - losses[0], logits[0] - logits)


def unlike_evaluation(model: Any, tokens: Tensor, predicted: Tensor, positions: list[int]) -> list[int]:
    """Positions whose predictions in training mode, averaged over their noise, are far from those in evaluation."""
    mean = torch.stack([training_logits(model, tokens, seed=seed)[0] for seed in range(NOISY_PASSES)]).mean(0)
    centred, expected = (logits - logits.mean(-1, keepdim=True) for logits in (mean, predicted))
    deviation = (centred - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)
    return [t for t in positions if not deviation[t] <= MAX_DEVIATION_IN_TRAINING]


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


@torch.no_grad()
def is_random(model: Any, tokens: Tensor, targets: Tensor) -> bool:
    """Whether the training loss of the same tokens depends on the seed."""
    return len({training_loss(model, tokens, targets, seed=seed).total.item() for seed in range(DRAWS)}) > 1


def loss_parts(model: Any, tokens: Tensor, targets: Tensor, seed: int) -> dict[str, Tensor]:
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
