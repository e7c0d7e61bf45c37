"""Coverage: training and evaluation reach every position, every kind of prediction and every parameter."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from litmus.audit.check import Check, Evidence, counted
from litmus.audit.losses import training_loss
from litmus.audit.scoring import held_out, pattern, scored
from litmus.audit.target import AuditTarget
from litmus.audit.trained import Trained, repeated_terms, times_trained, trained_positions
from litmus.audit.vectors import captured
from litmus.model import Decoder

LENGTH = (20, 40)
ROWS, GRADIENT_PASSES = 8, (16, 64)
SHOWN = 4

NEIGHBOURS, SHARE_PASSES = 8, (12, 24)
"""Of how many places side by side the loss is counted, in how many passes (quick, full)."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from trained(target)
    yield from terms(target)
    yield from reached(target)
    yield from scored(target)
    yield from held_out(target)


def trained(target: AuditTarget) -> Iterator[Evidence]:
    """Every position receives loss in some pass of training, and on the prediction that is used there."""
    length = target.length(target.pick(*LENGTH))
    found = trained_positions(target, length, list(range(length)))
    far = min(target.recipe.context, target.longest, target.pick(520, 1100))
    if far > length and not found.unscored and not found.otherwise:
        some = sorted({far - 1, *target.pick((), (far - 2, far // 4, far // 2, 3 * far // 4))})
        distant = trained_positions(target, far, some)
        if distant.unscored or distant.otherwise:
            found = distant
    yield from judged(found, target)
    if found.random and not found.unscored and not found.otherwise:
        yield from often_enough(target)


def judged(found: Trained, target: AuditTarget) -> Iterator[Evidence]:
    share = len(found.positions)
    if found.unscored:
        chosen = torch.zeros(found.length, dtype=torch.bool)
        chosen[sorted(found.scored)] = True
        used = scores_them(target, found.unscored, found.length)
        yield Evidence(
            f"training puts a loss on {len(found.scored)} of {share} positions{pattern(chosen)}"
            + (", while decoding and evaluation use all of them" if used else ""),
            fault=True,
            measured=len(found.unscored) / share,
            tolerance=0.0,
            where=f"position {found.unscored[0]} of {found.length} never gets a loss",
            mark="predicts at positions it never trained" if used else "trains on some positions only",
            meaning="What the model says at the other positions was never trained: text generated there is guesswork, "
            "and a training loss over the rest compares with nothing.",
        )
    elif found.otherwise:
        yield Evidence(
            f"at {len(found.otherwise)} of {len(found.compared)} positions, no pass of training scores what "
            "model(tokens) predicts there",
            fault=True,
            measured=len(found.otherwise) / len(found.compared),
            tolerance=0.0,
            where=f"position {found.otherwise[0]} of {found.length}",
            mark="predicts in ways it never trained",
            meaning="Training optimizes one model, decoding and evaluation use another: offsets, phases or branches "
            "that no loss has ever seen.",
        )
    else:
        kind = "in some random pass" if found.random else "in every pass"
        yield Evidence(f"all {share} positions get a loss {kind}, on the prediction that is used")


def often_enough(target: AuditTarget) -> Iterator[Evidence]:
    """Whether there are positions that get a loss in every pass and positions that get one in few passes."""
    length = target.length(NEIGHBOURS + 12)
    places = list(range(length - NEIGHBOURS, length))
    passes = target.pick(*SHARE_PASSES)
    times = times_trained(target, length, places, passes)
    most, least = max(places, key=times.__getitem__), min(places, key=times.__getitem__)
    if times[most] == passes and times[least] < passes / 2:
        yield Evidence(
            f"training scores position {most} in all of {passes} passes and position {least} in {times[least]}: how "
            "well a prediction is trained depends on where it stands",
            warning=True,
            where=f"positions {most} and {least} of {length}",
            meaning="Losses by position differ for that reason alone; a phase drawn anew for each row evens it out.",
        )


def scores_them(target: AuditTarget, positions: list[int], length: int) -> bool:
    tokens, targets = target.tokens(1, length, seed=30), target.tokens(1, length, seed=31)
    return bool((target.model.token_losses(tokens, targets)[0, positions] != 0).any())


def terms(target: AuditTarget) -> Iterator[Evidence]:
    """No extra term of the loss predicts the main head's target from the main head's own vector."""
    for name, position in repeated_terms(target, target.length(16)):
        yield Evidence(
            f"the loss term {name!r} predicts the token that the main head already predicts, from the same vector",
            fault=True,
            where=f"model.loss(...).parts[{name!r}], position {position}",
            mark="counts the next-token loss twice",
            meaning="The term teaches nothing about later tokens: what looks like a gain from it is another learning "
            "rate, and its extra head costs parameters and time.",
        )


def reached(target: AuditTarget) -> Iterator[Evidence]:
    """Every parameter, every expert and every unit receives a gradient from some batch."""
    gradients: dict[str, Tensor] = {}
    positions = torch.zeros(target.length(48), dtype=torch.bool)
    for model in (copy.deepcopy(target.model), target.build_model()):
        for seed in range(target.pick(*GRADIENT_PASSES)):
            take_gradients(target, model, seed, gradients, positions)
            if seed and positions.all() and all(gradient.any() for gradient in gradients.values()):
                break
    unused = [name for name, gradient in gradients.items() if not gradient.any()]
    dead = {name: found for name, gradient in gradients.items() if (found := dead_slices(name, gradient))}
    if unused:
        yield Evidence(
            f"{counted(len(unused), 'parameter')} of {len(gradients)} never receive a gradient: {shown(unused)}",
            fault=True,
            measured=len(unused),
            tolerance=0,
            where=unused[0],
            mark="has parameters that never train",
            meaning="They are counted as parameters and do nothing: an expert without tokens, a layer that is "
            "bypassed or cut off.",
        )
    dead = {name: found for name, found in dead.items() if name not in unused}
    if dead:
        worst = max(dead, key=lambda name: len(dead[name]) / len(gradients[name]))
        yield Evidence(
            f"{len(dead[worst])} of {len(gradients[worst])} units (experts, rows) of {worst} never receive a gradient",
            fault=True,
            measured=len(dead[worst]) / len(gradients[worst]),
            tolerance=0.0,
            where=f"{worst}, units {shown([str(unit) for unit in dead[worst]])}",
            mark="has dead units",
            meaning="Dead units and experts without tokens cost memory and are credited as parameters.",
        )
    if not positions.all():
        yield Evidence(
            f"the vectors of {int((~positions).sum())} of {len(positions)} positions receive no gradient",
            fault=True,
            where=f"position {int((~positions).nonzero()[0])}",
            mark="trains on some positions only",
            meaning="What stands at these positions teaches the model nothing.",
        )
    if not unused and not dead:
        yield Evidence(f"all {len(gradients)} parameters receive a gradient")


def take_gradients(
    target: AuditTarget, model: Decoder, seed: int, gradients: dict[str, Tensor], positions: Tensor
) -> None:
    """Add the size of one batch's gradients to `gradients`, by parameter, and note which positions had one."""
    tokens = target.tokens(ROWS, len(positions), seed=50 + seed)
    targets = target.tokens(ROWS, len(positions), seed=500 + seed)
    with captured(model.embedding) as vectors:
        training_loss(model, tokens, targets, seed=seed).total.backward()
    for vector in vectors:
        if vector.grad is not None and vector.shape[:2] == tokens.shape:
            positions |= vector.grad.ne(0).any(-1).any(0)
    for name, parameter in model.named_parameters():
        size = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()
        gradients[name] = gradients.get(name, 0) + size
    model.zero_grad()


def dead_slices(name: str, gradient: Tensor) -> list[int]:
    """Which slices of a layer's matrix or stack of matrices, along its first dimension, have no gradient at all."""
    if gradient.ndim < 2 or not name.startswith("layers."):
        return []  # rows of embeddings and position tables are used only by their own token or place
    return (~gradient.flatten(1).any(1)).nonzero()[:, 0].tolist()


def shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


CHECK = Check(
    name="coverage",
    asserts="Every position receives loss and gradient in training and is scored in evaluation, on the prediction "
    "that is used there; every parameter, expert and unit receives a gradient.",
    how="One target at a time is scored in training mode and compared with model(tokens), over many passes where the "
    "objective draws positions; gradients of random batches; token_losses and evaluate against log softmax.",
    tolerance="None for what is left out: exact zeros are counted. Agreement of losses to 1e-6, far above rounding in "
    "fp64 and far below any two different predictions.",
    means="Part of what the model says or holds was never trained or never scored.",
    mark="leaves part of itself untrained or unscored",
    gather=gather,
)
