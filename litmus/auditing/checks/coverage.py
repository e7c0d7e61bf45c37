"""Coverage: training and evaluation include every position, every kind of prediction and every parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litmus.auditing.check import Check, Evidence, needs, plural
from litmus.auditing.checks.causality_in_training import documents_independent_in_training
from litmus.auditing.checks.expert_balance import experts_stay_balanced
from litmus.auditing.checks.gradients import gradients_everywhere
from litmus.auditing.checks.loss_function import loss_function
from litmus.auditing.checks.supervision import Supervision, duplicated_terms, loss_counts, supervision
from litmus.auditing.target import AuditTarget, generator
from litmus.data import TokenData, Tokenizer
from litmus.nn import IGNORED, Batch
from litmus.training.evaluation import evaluate

POSITIONS = (20, 40)

COUNTED_POSITIONS, COUNTED_PASSES = 8, (12, 24)
"""Adjacent positions whose losses are counted, and training passes (quick, full) for that."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from positions_trained(target)
    yield from no_duplicated_terms(target)
    yield from loss_function(target)
    yield from documents_independent_in_training(target)
    yield from gradients_everywhere(target)
    yield from experts_stay_balanced(target)
    yield from token_losses_exact(target)
    yield from evaluate_exact(target)
    yield from scored_at_own_size(target)


@needs("loss")
def positions_trained(target: AuditTarget) -> Iterator[Evidence]:
    """Every position has a loss in some training pass, on the prediction of model(tokens)."""
    length = target.length(target.pick(*POSITIONS))
    found = supervision(target, length, list(range(length)))
    for longer in sorted({min(target.context, target.longest, most) for most in (130, target.pick(520, 1100))}):
        if longer <= length or found.unscored or found.mismatched:
            continue
        some = {longer - 1} if found.random else {longer - 1, longer - 2, 0, 13, *(longer * n // 4 for n in (1, 2, 3))}
        distant = supervision(target, longer, sorted(some))
        if distant.unscored or distant.mismatched:
            found = distant
    yield from position_evidence(found, target)
    if found.random and not found.unscored and not found.mismatched:
        yield from evenly_often(target)


def position_evidence(found: Supervision, target: AuditTarget) -> Iterator[Evidence]:
    total = len(found.positions)
    if found.unscored:
        scored = torch.zeros(found.length, dtype=torch.bool)
        scored[sorted(found.scored)] = True
        used = evaluation_scores(target, found.unscored, found.length)
        yield Evidence(
            f"training puts a loss on {len(found.scored)} of {total} positions{spacing(scored)}"
            + (", while decoding and evaluation use all of them" if used else ""),
            fault=True,
            measured=len(found.unscored) / total,
            tolerance=0.0,
            where=f"position {found.unscored[0]} of {found.length} never has a loss",
            mark="predicts at positions it never trained" if used else "trains on some positions only",
            meaning="Predictions at the other positions are untrained: text generated there is random, and a training "
            "loss over the rest is comparable with no other model's.",
        )
    elif found.mismatched:
        yield Evidence(
            f"at {len(found.mismatched)} of {len(found.compared)} positions, no pass of training scores what "
            "model(tokens) predicts there",
            fault=True,
            measured=len(found.mismatched) / len(found.compared),
            tolerance=0.0,
            where=f"position {found.mismatched[0]} of {found.length}",
            mark="predicts in ways it never trained",
            meaning="Training optimizes one model, decoding and evaluation use another: offsets, phases or branches "
            "that no loss includes.",
        )
    else:
        kind = "in some random pass" if found.random else "in every pass"
        yield Evidence(f"all {total} positions have a loss {kind}, on the prediction of model(tokens)")


def evenly_often(target: AuditTarget) -> Iterator[Evidence]:
    """A warning if some positions have a loss in every pass and others in less than half of them."""
    length = target.length(COUNTED_POSITIONS + 12)
    places = list(range(length - COUNTED_POSITIONS, length))
    passes = target.pick(*COUNTED_PASSES)
    times = loss_counts(target, length, places, passes)
    most, least = max(places, key=times.__getitem__), min(places, key=times.__getitem__)
    if times[most] == passes and times[least] < passes / 2:
        yield Evidence(
            f"training scores position {most} in all of {passes} passes and position {least} in {times[least]}: how "
            "well a prediction is trained depends on its position",
            warning=True,
            where=f"positions {most} and {least} of {length}",
            meaning="Losses by position differ for that reason alone; a phase drawn anew for each row evens it out.",
        )


def evaluation_scores(target: AuditTarget, positions: list[int], length: int) -> bool:
    tokens, targets = target.tokens(1, length, seed=30), target.tokens(1, length, seed=31)
    return bool((target.model.token_losses(tokens, targets)[0, positions] != 0).any())


@needs("recipe")
def no_duplicated_terms(target: AuditTarget) -> Iterator[Evidence]:
    """No auxiliary loss term predicts the main head's target from the main head's vector."""
    for name, position in duplicated_terms(target, target.length(16)):
        yield Evidence(
            f"the loss term {name!r} predicts the same token as the main head, from the same vector",
            fault=True,
            where=f"model.loss(...).parts[{name!r}], position {position}",
            mark="counts the next-token loss twice",
            meaning="The term contains nothing about later tokens: an apparent gain from it is a larger learning rate, "
            "and its extra head costs parameters and time.",
        )


Evaluate = Callable[..., Any]

FP32_TOLERANCE = 1e-5
"""Nats by which token_losses, which are at least fp32, may differ from the definition in fp64."""


class OneByteTokenizer(Tokenizer):
    """A tokenizer for random tokens: no text, each token counts as one byte."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__("none", [b"."] * vocab_size, eos_id=0)

    def encode_batch(self, texts: Sequence[str], continuing: Sequence[bool] | None = None) -> list[list[int]]:
        raise NotImplementedError


@needs("recipe")
def token_losses_exact(target: AuditTarget) -> Iterator[Evidence]:
    """model.token_losses equals -log softmax(model(tokens)) at every target."""
    long = min(target.context, target.reach, target.pick(520, 1100))
    batches = [scored_batch(target, 3, target.length(50)), scored_batch(target, 1, long)]
    packed = scored_batch(target, 2, target.length(30))
    documents = (torch.arange(packed.tokens.shape[1]) // 11).expand_as(packed.tokens)
    batches.append(replace(packed, document_ids=documents))
    for batch in batches:
        for evidence in scored_wrongly(target, target.model, batch):
            yield evidence
            return
    yield Evidence("evaluation scores every target with the model's own probability")


@needs("recipe")
def scored_at_own_size(target: AuditTarget) -> Iterator[Evidence]:
    """The same at the width and vocabulary that were asked for, which may take another path."""
    model, size = target.own_size
    if model is None:
        return
    random = generator(48)
    tokens, targets = (torch.randint(model.recipe.vocab_size, (2, target.length(17)), generator=random) for _ in "xy")
    faults = list(scored_wrongly(target, model, Batch(tokens, targets)))
    yield from (replace(found, what=f"{found.what} ({size})") for found in faults)
    if not faults:
        yield Evidence(f"and {size}, with {model.recipe.vocab_size:,} tokens")


def scored_batch(target: AuditTarget, rows: int, length: int) -> Batch:
    """Random tokens and targets, some of which are not scored."""
    tokens, targets = target.tokens(rows, length, seed=40), target.tokens(rows, length, seed=41)
    targets[:, 3::11] = IGNORED
    return Batch(tokens, targets)


def scored_wrongly(target: AuditTarget, model: Any, batch: Batch) -> Iterator[Evidence]:
    """How model.token_losses differs from -log softmax of the logits, if it does."""
    limit, targets = max(FP32_TOLERANCE, target.rounding), batch.scored_targets
    wanted = targets != IGNORED
    given = model.token_losses(batch).double()
    if given.shape != targets.shape:
        yield fault(f"model.token_losses gives shape {tuple(given.shape)} for targets {tuple(targets.shape)}")
        return
    skipped = wanted & (given == 0)
    wrong = (given - nats_per_target(model, batch)).abs()
    packed = "" if batch.document_ids is None else " in packed documents"
    if skipped.any():
        row, position = skipped.nonzero()[0].tolist()
        yield fault(
            f"evaluation scores {int((wanted & ~skipped).sum())} of {plural(int(wanted.sum()), 'target')}"
            f"{spacing((~skipped & wanted)[0])}",
            where=f"model.token_losses, first skipped at row {row}, position {position}",
            measured=float(skipped.sum() / wanted.sum()),
            tolerance=0.0,
        )
    elif not float(wrong.max()) <= limit:
        yield fault(
            f"evaluation does not score -log softmax(model(tokens)){packed}: a target's loss is off by "
            f"{float(wrong.max()):.3g} nats",
            where=f"model.token_losses, position {int(wrong.argmax()) % targets.shape[1]}",
            measured=float(wrong.max()),
            tolerance=limit,
            mark="is scored on something other than its predictions",
        )


@needs("recipe")
def evaluate_exact(target: AuditTarget, score: Evaluate = evaluate) -> Iterator[Evidence]:
    """`evaluate` scores every token of a small held-out stream exactly once, the last window included."""
    model, context = target.model, min(24, target.longest)
    stream = target.tokens(1, 5 * context + 7, seed=42)[0].numpy()
    data = TokenData(stream, stream, OneByteTokenizer(target.vocab_size), "", {})
    result = score(model, data, context=context, batch=2)
    expected = 0.0
    for start in range(0, len(stream) - 1, context):
        window = torch.from_numpy(stream[start : start + context + 1])[None]
        missing = (0, context + 1 - window.shape[1])
        tokens, targets = F.pad(window[:, :-1], missing), F.pad(window[:, 1:], missing, value=-100)
        expected += float(nats_per_target(model, Batch(tokens, targets)).sum())
    count = len(stream) - 1
    if result.tokens != count:
        yield fault(
            f"evaluation counts {result.tokens} of {count} held-out tokens",
            where="evaluate",
            measured=1 - result.tokens / count,
            tolerance=0.0,
        )
    elif not abs(result.nats_per_token * count - expected) <= 1e-6 * expected:
        yield fault(
            f"the held-out loss is {result.nats_per_token:.6g} nats per token where the model's own probabilities "
            f"give {expected / count:.6g}",
            where="evaluate",
            measured=abs(result.nats_per_token - expected / count),
            tolerance=1e-6 * expected / count,
        )
    else:
        yield Evidence("evaluation scores every held-out token once")


@torch.no_grad()
def nats_per_target(model: Any, batch: Batch) -> Tensor:
    """-log softmax of the model's logits at each target (B, T) in fp64, 0 where it is not scored: the definition."""
    targets = batch.scored_targets
    given = batch.tokens if batch.document_ids is None else batch
    log_p = model(given).double().log_softmax(-1)
    return -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0].masked_fill(targets == IGNORED, 0.0)


def spacing(chosen: Tensor) -> str:
    """ ": positions 3, 7, 11, ..., every 4th", where the chosen positions (T,) are evenly spaced; else ""."""
    found = chosen.nonzero()[:, 0].tolist()
    gaps = {b - a for a, b in pairwise(found)}
    if len(found) < 3 or len(gaps) > 1 or gaps == {1}:
        return ""
    return f": positions {', '.join(map(str, found[:3]))}, ..., every {gaps.pop()}th"


def fault(what: str, mark: str = "is scored on some tokens only", **measurement: Any) -> Evidence:
    return Evidence(
        what,
        fault=True,
        mark=mark,
        meaning="Its score covers different tokens than other models' scores and cannot be compared with them.",
        **measurement,
    )


CHECK = Check(
    name="coverage",
    asserts="Every position receives loss and gradient in training and is scored in evaluation, on the prediction "
    "that is used there; every parameter, expert and unit receives a gradient.",
    how="One target at a time is scored in training mode and compared with model(tokens), over many passes if the "
    "objective samples positions; gradients of random batches; token_losses and evaluate against log softmax.",
    tolerance="None for missing losses and gradients: exact zeros are counted. Losses agree to 1e-6, far above "
    "rounding in fp64 and far below the difference of any two predictions.",
    means="Some predictions or parameters of the model are never trained or never scored.",
    mark="is partly untrained or unscored",
    gather=gather,
    exact=True,
)
