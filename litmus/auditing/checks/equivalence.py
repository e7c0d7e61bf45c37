"""Equivalence: fast paths compute the same as their references, and gradients are derivatives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from litmus.auditing.adapters.decoder import DecoderTarget
from litmus.auditing.check import Check, Evidence, max_difference, needs, plural
from litmus.auditing.checks.derivatives import gradients_are_derivatives
from litmus.auditing.target import AuditTarget, generator
from litmus.model import Decoder
from litmus.nn import Batch, reference_path
from litmus.runtime.device import seeded

SHAPES = (4, 16)
GRADIENT_ROUNDING = 1e-8
"""Tolerance of gradients relative to the largest of each parameter; ten times that of logits, because they are sums
over all tokens."""


SMALLEST_GRADIENT = 1e-7
"""Gradients are relative to at least this share of the largest: those that are 0 but for rounding, as of a bias that a
softmax cannot see, are not compared with each other."""


def gather(target: AuditTarget) -> Iterator[Evidence]:
    yield from fast_paths_equal_references(target)
    yield from gradients_are_derivatives(target)


@needs("recipe")
def fast_paths_equal_references(target: DecoderTarget) -> Iterator[Evidence]:
    worst, worst_gradient, shapes = 0.0, 0.0, list(random_shapes(target))
    model = copy.deepcopy(target.model)
    for batch, length, packed in shapes:
        forward, gradient, name = compared(model, target, batch, length, packed)
        worst, worst_gradient = max(worst, forward), max(worst_gradient, gradient)
        if forward > target.loss_rounding or gradient > gradient_limit(target):
            yield Evidence(
                f"the fast path differs from its reference in {'its gradients' if name else 'what it computes'} "
                f"for {plural(batch, 'row')} of {plural(length, 'token')}{' in packed documents' if packed else ''}",
                fault=True,
                measured=gradient if name else forward,
                tolerance=gradient_limit(target) if name else target.loss_rounding,
                where=name or "model(tokens) against itself within reference_path()",
            )
            return
    yield Evidence(
        f"fast paths equal their references, gradients to {worst_gradient:.1g} ({len(shapes)} random shapes)",
        measured=worst,
        tolerance=target.loss_rounding,
    )


def gradient_limit(target: DecoderTarget) -> float:
    return max(GRADIENT_ROUNDING, target.loss_rounding)


def random_shapes(target: DecoderTarget) -> Iterator[tuple[int, int, bool]]:
    """(batch, length, whether documents are packed)."""
    random = generator(60)
    for number in range(target.pick(*SHAPES)):
        longest = min(target.longest, 150 if number % 4 == 3 else 40)
        length = int(torch.randint(1, longest + 1, (), generator=random))
        yield int(torch.randint(1, 5, (), generator=random)), length, number % 3 == 2


def compared(model: Decoder, target: DecoderTarget, batch: int, length: int, packed: bool) -> tuple[float, float, str]:
    """Differences of logits or losses and of gradients, and the last parameter whose gradient is wrong ("" if none).

    Gradients flow from the last module to the first: those of modules after the fault are right.
    """
    tokens, targets = target.tokens(batch, length, seed=61), target.tokens(batch, length, seed=62)
    documents = (torch.arange(length) // max(1, length // 3)).expand(batch, -1) if packed else None
    given = Batch(tokens, targets, documents)
    fast = forward_backward(model, given)
    with reference_path():
        plain = forward_backward(model, given)
    forward = max(
        max_difference(fast[0], plain[0]), float((fast[1] - plain[1]).abs()) / max(1.0, float(plain[1].abs()))
    )
    worst, last_wrong = 0.0, ""
    for name, reference in plain[2].items():
        scale = reference.abs().max().clamp(min=SMALLEST_GRADIENT * max(1.0, float(plain[3])))
        difference = float(((fast[2][name] - reference).abs().max() / scale).nan_to_num(torch.inf))
        worst = max(worst, difference)
        if difference > gradient_limit(target):
            last_wrong = name
    return forward, worst, last_wrong if forward <= target.loss_rounding else ""


def forward_backward(model: Decoder, batch: Batch) -> Any:
    """Logits, training loss, its gradients by parameter, and the largest gradient."""
    model.train().zero_grad()
    with seeded(0):
        loss = model.loss(batch).total
    loss.backward()
    gradients = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        logits = model.eval()(batch)
    largest = max((float(gradient.abs().max()) for gradient in gradients.values()), default=0.0)
    return logits, loss.detach(), gradients, largest


CHECK = Check(
    name="equivalence",
    asserts="Every fast path computes the same as its reference implementation, forward and gradient; gradients are "
    "derivatives.",
    how="model(tokens) and model.loss against themselves within litmus.nn.reference_path(), at random shapes, some "
    "with packed documents; central differences of every hand-written backward pass, and of the loss in a random "
    "direction of every parameter, where nothing is detached on purpose.",
    tolerance="1e-9 standard deviations of the logits and 1e-8 of each parameter's largest gradient, in fp64: the same "
    "formula in another order. 0.1 % of a derivative, whose central difference is exact to 1e-6.",
    means="The model that is trained is not the one that the reference describes.",
    mark="computes something else on its fast path",
    gather=gather,
    exact=True,
)
