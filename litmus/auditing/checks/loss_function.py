"""The training loss as a function of its batch: its scale, skipped targets, and the auxiliary losses of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Evidence, needs
from litmus.auditing.checks.supervision import is_random
from litmus.auditing.hooks import added_aux_losses, training_loss
from litmus.auditing.sizes import own_lengths
from litmus.auditing.target import AuditTarget
from litmus.model import Decoder
from litmus.nn import IGNORED, AuxLosses, Batch
from litmus.nn.core.aux_losses import micro_batch, total_of

SCALE_TOLERANCE = 0.02
"""Relative difference of the losses of a batch and of the same rows repeated: means are equal, sums are not.

Mechanisms that see the batch, such as experts with a limited capacity, may move it a little.
"""

SHARES_TOLERANCE = 0.1
"""Relative deviation of the loss of a batch from the weighted mean of its parts; a loss term further ahead has a few
targets less than the main one."""

SCORE_TOLERANCE = 1e-4
"""Relative difference of the loss in evaluation mode from the cross-entropy of the logits, beyond rounding."""

MAX_LOSS_TOKENS = 140
"""Longest text by which the weights of targets are judged."""

MICRO_BATCH_TOLERANCE = 1e-3
"""Relative difference of a step's loss in one batch and in two, from experts that see one micro-batch at a time."""

OTHER_IN_MICRO_BATCHES: dict[str, Any] = {
    "mark": "has another loss in micro-batches",
    "meaning": "With --accumulation, or on several devices, another loss is trained than in one batch.",
}

UNSCORED_TOLERANCE = 1e-6
"""Relative change of a loss by tokens that must not enter it, beyond rounding."""

RANDOM_PASSES, STANDARD_ERRORS = 48, 6.0
"""Training passes, and their standard errors, by which the mean of a random loss is judged."""


@needs("loss")
def loss_function(target: AuditTarget) -> Iterator[Evidence]:
    model = copy.deepcopy(target.model)
    tokens, targets = target.tokens(1, target.length(10), seed=43), target.tokens(1, target.length(10), seed=44)
    random = is_random(model, tokens, targets)
    faults = list(same_for_repeated_rows(model, tokens, targets, random))
    if not faults and not random and target.length(16) == 16:
        with torch.no_grad():
            scores = target.lacks("recipe") and has_further_terms(model, tokens, targets)
        mean_of = evaluation_loss if scores else training_loss_value
        faults = list(mean_over_scored(target, model, mean_of)) or list(mean_over_tokens(target, model, mean_of))
        if not faults:
            yield from unscored_tokens_no_effect(target, model, mean_of)
    if not faults and not target.lacks("recipe") and not random:
        faults = list(same_in_micro_batches(target, model))  # type: ignore[arg-type]
    if not faults and not target.lacks("recipe"):
        faults = list(auxiliary_losses(target, model))  # type: ignore[arg-type]
    if not faults and target.lacks("recipe") and not random:
        faults = list(cross_entropy_in_evaluation(target, model))
    yield from faults
    if not faults:
        yield Evidence("the loss is a mean over the scored targets, whatever the batch")


def same_for_repeated_rows(model: Any, tokens: Tensor, targets: Tensor, random: bool) -> Iterator[Evidence]:
    """The loss, and each of its parts, is the same when all rows occur several times."""
    once = mean_parts(model, tokens, targets, random)
    for copies in (2, 8):
        several = mean_parts(model, tokens.repeat(copies, 1), targets.repeat(copies, 1), random)
        for name, (mean, error) in once.items():
            other, other_error = several.get(name, (mean, 0.0))
            difference = abs(other - mean)
            if difference > SCALE_TOLERANCE * abs(mean) + STANDARD_ERRORS * (error + other_error) + 1e-6:
                what = "the training loss" if name == "total" else f"the loss term {name!r}"
                yield Evidence(
                    f"{what} of a row is {mean:.4g}, of {copies} copies of it {other:.4g}: it depends on the size of "
                    "the batch",
                    fault=True,
                    measured=difference / max(abs(mean), 1e-12),
                    tolerance=SCALE_TOLERANCE,
                    where="model.loss",
                    mark="has a loss that grows with the batch",
                    meaning="The learning rate then depends on batch and length, and losses cannot be compared.",
                )
                return


def mean_parts(model: Any, tokens: Tensor, targets: Tensor, random: bool) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the loss and of its parts, over many passes if it is random."""
    values: dict[str, list[float]] = {}
    with torch.no_grad():
        for seed in range(RANDOM_PASSES if random else 1):
            loss = training_loss(model, tokens, targets, seed=seed)
            for name, value in {**loss.parts, "total": loss.total}.items():
                values.setdefault(name, []).append(float(value))
    found = {}
    for name, seen in values.items():
        of_name = torch.tensor(seen, dtype=torch.float64)
        error = float(of_name.std() / len(seen) ** 0.5) if len(seen) > 1 else 0.0
        found[name] = float(of_name.mean()), error
    return found


LossOf = Callable[[Any, Tensor, Tensor], float]
"""The loss of tokens (B, T) and targets (B, T)."""


def training_loss_value(model: Any, tokens: Tensor, targets: Tensor) -> float:
    return float(training_loss(model, tokens, targets, seed=0).total)


def evaluation_loss(model: Any, tokens: Tensor, targets: Tensor) -> float:
    return float(model.eval().loss(tokens, targets).total)


def has_further_terms(model: Any, tokens: Tensor, targets: Tensor) -> bool:
    """Whether the training loss of a module has terms that are no mean over the scored targets, as of tokens ahead.

    A module shows no terms, so that only its loss in evaluation mode can then be judged.
    """
    training, evaluation = training_loss_value(model, tokens, targets), evaluation_loss(model, tokens, targets)
    return abs(training - evaluation) > SCORE_TOLERANCE * abs(evaluation)


@torch.no_grad()
def mean_over_scored(target: AuditTarget, model: Any, loss_of: LossOf) -> Iterator[Evidence]:
    """The loss of all targets is the mean of the losses of its parts, and targets of -100 add nothing to them.

    With S₁ and S₂ that share the last position only, |S₁|·f(S₁) + |S₂|·f(S₂) = |S|·f(S) + f(last). The targets are the
    most probable tokens, so that a target in place of -100 costs more than they do.
    """
    tokens = target.tokens(1, 16, seed=45)
    likely = model.eval()(tokens).argmax(-1)
    index = torch.arange(16)
    last = index == 15
    sets = (index % 2 == 0) | last, (index % 2 == 1) | last, index >= 0, last
    losses = [loss_of(model, tokens, likely.masked_fill(~chosen, IGNORED)) for chosen in sets]
    one, two, whole, end = (loss * int(chosen.sum()) for loss, chosen in zip(losses, sets, strict=True))
    scale = max(abs(whole), 1e-12)
    yield from no_mean(
        abs(one + two - whole - end) / scale,
        f"the loss of 16 targets is {losses[2]:.4g}, but {losses[0]:.4g} and {losses[1]:.4g} with "
        "half of them set to -100: it is no mean over the scored targets",
        "Padding is trained, or the loss shrinks and grows with the share of targets that are scored.",
    )


@torch.no_grad()
def unscored_tokens_no_effect(target: AuditTarget, model: Any, loss_of: LossOf) -> Iterator[Evidence]:
    """Tokens after the last scored target, as padding is, do not enter the loss, in no term of it."""
    tokens, targets = target.tokens(2, 16, seed=53), target.tokens(2, 16, seed=54)
    targets[:, 8:] = IGNORED
    changed = torch.cat((tokens[:, :8], target.other_tokens(tokens)[:, 8:]), 1)
    tolerance = max(UNSCORED_TOLERANCE, target.loss_rounding)
    with added_aux_losses() as added:
        one, other = (loss_of(model, text, targets) for text in (tokens, changed))
    half = len(added) // 2
    for (name, _, before), (_, _, after) in zip(added[:half], added[half:], strict=False):
        difference = float((before - after).abs() / before.abs().clamp(min=1e-12))
        if not difference <= tolerance:
            yield Evidence(
                f"the loss {name!r} that layers add is {float(before):.6g}, and {float(after):.6g} with other tokens "
                "after the last scored target",
                fault=True,
                measured=difference,
                tolerance=tolerance,
                where="a mean over other tokens than those in aux_losses.counted",
                mark="has a loss term over tokens that are not scored",
                meaning="Padding and prompts enter the loss, the more the longer they are.",
            )
            return
    if not abs(one - other) <= tolerance * max(abs(one), 1e-12):
        yield Evidence(
            f"the loss of 8 scored targets is {one:.6g}, and {other:.6g} with other tokens after them, "
            "whose targets are -100",
            warning=True,
            measured=abs(one - other) / max(abs(one), 1e-12),
            tolerance=tolerance,
            where="model.loss with targets of -100",
            meaning="Padding and prompts enter the loss, the more the longer they are.",
        )


def no_mean(deviation: float, what: str, meaning: str) -> Iterator[Evidence]:
    """The fault of a loss that is no mean over the scored targets, if it deviates from that by so much."""
    if deviation == deviation and deviation <= SHARES_TOLERANCE:
        return
    yield Evidence(
        what,
        fault=True,
        measured=deviation,
        tolerance=SHARES_TOLERANCE,
        where="model.loss with targets of -100",
        mark="has a loss that is no mean over the scored targets",
        meaning=meaning,
    )


@torch.no_grad()
def mean_over_tokens(target: AuditTarget, model: Any, loss_of: LossOf) -> Iterator[Evidence]:
    """A scored target weighs the same whether few or many targets of its row, or of its part of the text, are scored.

    Of two sets of targets, (|S₁| + |S₂|)·f(S₁ + S₂) = |S₁|·f(S₁) + |S₂|·f(S₂). Those of the larger set are the most
    probable tokens, those of the smaller one the least probable. Tried at twice the numbers that the model states too,
    as losses are computed in chunks.
    """
    stated = [length for length in own_lengths(target, min(target.reach, MAX_LOSS_TOKENS)) if length > 16]
    for length in (16, *stated[: target.pick(4, 12)]):
        tokens = target.tokens(2, length, seed=50)
        logits = model.eval()(tokens)
        row, position = torch.arange(2)[:, None].expand(2, length), torch.arange(length).expand(2, length)
        of_two_rows = row == 0, (row == 1) & (position >= length - length // 3)
        of_two_halves = position >= length // 2, (position < length // 2) & (position % 4 == 0)
        for (many, few), which in ((of_two_rows, "rows"), (of_two_halves, "halves of a text")):
            targets = torch.where(many, logits.argmax(-1), logits.argmin(-1))
            sets = many | few, many, few
            losses = [loss_of(model, tokens, targets.masked_fill(~chosen, IGNORED)) for chosen in sets]
            mean = (losses[1] * int(many.sum()) + losses[2] * int(few.sum())) / int((many | few).sum())
            faults = list(
                no_mean(
                    abs(mean - losses[0]) / max(abs(losses[0]), 1e-12),
                    f"of two {which} with {int(many.sum())} and {int(few.sum())} scored targets the loss is "
                    f"{losses[0]:.4g}, and the mean over their tokens {mean:.4g}: targets weigh more or less where few "
                    "are scored",
                    "A mean over rows or parts trains most on those with few targets; the score is a mean over tokens.",
                )
            )
            if faults:
                yield from faults
                return


@torch.no_grad()
def same_in_micro_batches(target: DecoderTarget, model: Decoder) -> Iterator[Evidence]:
    """The loss of a step is the same whether its rows are one batch or two micro-batches of different numbers."""
    length = target.length(16)
    tokens, targets = target.tokens(3, length, seed=51), target.tokens(3, length, seed=52)
    targets[0, length // 3 :] = IGNORED
    parts = [Batch(tokens[:2], targets[:2]), Batch(tokens[2:], targets[2:])]
    sums = []
    for part in parts:
        with micro_batch(None) as counted:
            training_loss(model, part, seed=0)
        sums.append(counted.sums)
        stated = model.objective.counts(part) or {}
        wrong = [name for name, count in stated.items() if name in counted.sums and count != counted.sums[name]]
        if wrong:
            yield Evidence(
                f"objective.counts says {int(stated[wrong[0]])} for {wrong[0]!r}, its loss is a mean over "
                f"{int(counted.sums[wrong[0]])}",
                fault=True,
                where="objective.counts",
                **OTHER_IN_MICRO_BATCHES,
            )
            return
    split = 0.0
    for part in parts:
        with micro_batch(total_of(sums)):
            split += float(training_loss(model, part, seed=0).total)
    whole = float(training_loss(model, Batch(tokens, targets), seed=0).total)
    deviation = abs(split - whole) / max(abs(whole), 1e-12)
    if not deviation <= MICRO_BATCH_TOLERANCE:
        yield Evidence(
            f"the loss of three rows is {whole:.5g} in one batch and {split:.5g} in two micro-batches",
            fault=True,
            measured=deviation,
            tolerance=MICRO_BATCH_TOLERANCE,
            where="model.loss, a term without share_of_step",
            **OTHER_IN_MICRO_BATCHES,
        )


@torch.no_grad()
def cross_entropy_in_evaluation(target: AuditTarget, model: Any) -> Iterator[Evidence]:
    """In evaluation mode a model's own loss, by which it is scored, is the cross-entropy of its logits and no more."""
    tokens, targets = target.tokens(2, target.length(16), seed=48), target.tokens(2, target.length(16), seed=49)
    own = float(model.eval().loss(tokens, targets).total)
    exact = float(model.token_losses(tokens, targets).mean())
    deviation = abs(own - exact) / max(abs(exact), 1e-12)
    tolerance = max(SCORE_TOLERANCE, target.loss_rounding)
    if deviation == deviation and deviation <= tolerance:
        return
    yield Evidence(
        f"in evaluation mode the loss is {own:.5g}, and the mean cross-entropy of the logits {exact:.5g}",
        fault=True,
        measured=deviation,
        tolerance=tolerance,
        where="the loss in evaluation mode",
        mark="is scored by more than the cross-entropy of its predictions",
        meaning="A validation loss with other terms in it, such as one that balances experts, is comparable with no "
        "other model's, and its perplexity is none.",
    )


def auxiliary_losses(target: DecoderTarget, model: Any) -> Iterator[Evidence]:
    """What layers add in training is part of the loss and among its named parts."""
    tokens, targets = target.tokens(2, target.length(12), seed=46), target.tokens(2, target.length(12), seed=47)
    expected = AuxLosses.before(targets)
    model.train()
    with torch.no_grad():
        model.hidden(Batch(tokens), aux_losses=expected)
    with added_aux_losses() as added:
        loss = training_loss(model, tokens, targets, seed=0)
    has_no_layers = not any(True for _ in model.objective.parameters())
    for name in expected.values:
        values = [(weight, value) for added_name, weight, value in added if added_name == name]
        if not values:
            what = f"layers add a loss {name!r} in training, and the objective does not ask them for it"
        elif not any(weight == 0 or value.requires_grad for weight, value in values):
            what = f"the loss {name!r} that layers add has no gradient: nothing is trained by it"
        elif not any(weight == 0 or weight * effect(value, loss.total) > 0 for weight, value in values):
            what = f"the loss {name!r} that layers add has no effect on the training loss"
        elif name not in loss.parts:
            what = f"the loss {name!r} that layers add is not among the parts of the training loss"
        elif has_no_layers and (times := taken(name, values, expected, loss.total)) > MAX_TIMES_TAKEN:
            what = f"the training loss takes the loss {name!r} that layers add {times:.3g} times"
        else:
            continue
        yield Evidence(
            what,
            fault=True,
            where="model.loss",
            mark="has auxiliary losses of its layers with other weights than they state",
            meaning="A router without its balance loss sends all tokens to few experts, and no report shows it.",
        )
        return


MAX_TIMES_TAKEN = 1.5
"""A term of the layers counts once; twice, as where an objective runs the model twice, is more weight than stated."""


def taken(name: str, values: list[tuple[float, Tensor]], expected: AuxLosses, total: Tensor) -> float:
    """How many times its stated weight a term of the layers has in the training loss."""
    stated = sum(abs(weight) for weight, _ in expected.values[name])
    return sum(abs(effect(value, total)) for _, value in values) / max(stated, 1e-30)


def effect(value: Tensor, total: Tensor) -> float:
    """The derivative of the loss by one of its terms."""
    if not total.requires_grad or not value.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(total, value, allow_unused=True, retain_graph=True)
    return 0.0 if gradient is None else float(gradient)
