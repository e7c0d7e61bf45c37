"""Whether gradients are the derivatives of what is computed: hand-written backward passes, and the loss as a whole."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from litmus.auditing.check import Evidence, needs, plural
from litmus.auditing.hooks import training_loss
from litmus.auditing.modes import NoStoppedGradients
from litmus.auditing.target import ROUNDING, AuditTarget, generator
from litmus.nn import reference_path

STEPS = (1e-5, 2.5e-6)
"""Two widths of central differences, relative to the size of the input. Where they disagree, the function has a kink or
a jump nearby (a ReLU, another expert), and nothing can be said."""

AGREEMENT, TOLERANCE = 1e-3, 1e-3
"""Relative differences: of the two central differences, and of the gradient from them. Rounding makes about 1e-6."""

Applied = dict[type, tuple[Any, ...]]
"""Arguments of the first call of each `torch.autograd.Function`."""


@needs("loss", "weights")
def gradients_are_derivatives(target: AuditTarget) -> Iterator[Evidence]:
    tokens, targets = target.tokens(2, target.length(12), seed=63), target.tokens(2, target.length(12), seed=64)
    model = copy.deepcopy(target.model)
    with applied_functions() as applied:
        training_loss(model, tokens, targets, seed=0).total.backward()
    surrogates = []
    for function, arguments in applied.items():
        with torch.random.fork_rng(devices=[]):
            found = error_of_function(function, arguments)
        if found is None:
            surrogates.append(function.__name__)
        elif found > TOLERANCE:
            yield fault(
                f"the backward pass of {function.__name__} is off by {found:.2g} of the derivative of its forward pass",
                found,
                f"{function.__name__}.backward",
            )
            return
    checked = f"of {plural(len(applied), 'hand-written function')}" if applied else ""
    if surrogates:
        yield Evidence(f"the backward pass of {', '.join(surrogates)} is no derivative on purpose")
    if surrogates or target.loss_rounding > ROUNDING:
        return
    name, error, groups = error_of_loss(target, model, tokens, targets)
    if error > TOLERANCE:
        yield fault(f"the gradient of {name} is off by {error:.2g} of the derivative of the loss", error, name)
        return
    tried = " and ".join(
        part for part in (checked, f"of {plural(groups, 'group')} of parameters" * bool(groups)) if part
    )
    if tried:
        yield Evidence(f"gradients {tried} are derivatives", measured=error, tolerance=TOLERANCE)


def fault(what: str, error: float, where: str) -> Evidence:
    return Evidence(
        what,
        fault=True,
        measured=error,
        tolerance=TOLERANCE,
        where=where,
        mark="has a wrong gradient",
        meaning="Training follows another direction than that of falling loss: the model learns less than it could.",
    )


@contextlib.contextmanager
def applied_functions() -> Iterator[Applied]:
    """Collect the arguments of every `torch.autograd.Function` that is applied within the block, of its first call."""
    applied: Applied = {}
    original = vars(torch.autograd.Function)["apply"]

    def apply(cls: type, *arguments: Any, **options: Any) -> Any:
        if cls not in applied and not options and not cls.__module__.startswith("torch."):
            applied[cls] = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in arguments)
            needed = [isinstance(a, Tensor) and a.requires_grad for a in arguments]
            for value, needs_gradient in zip(applied[cls], needed, strict=True):
                if needs_gradient:
                    value.requires_grad_()
        return original.__func__(cls, *arguments, **options)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield applied
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]


def error_of_function(function: Any, arguments: tuple[Any, ...]) -> float | None:
    """The relative error of a function's backward pass against central differences; 0 if nothing can be said.

    None for one that is no derivative on purpose: of a function that is constant in pieces (a straight-through
    estimator) or that returns its input (a scaled or reversed gradient).
    """
    inputs = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad and a.dtype == torch.float64]
    outputs = outputs_of(function, arguments)
    if not inputs or not outputs:
        return 0.0
    if any(same(output, value) for output in outputs for value in inputs):
        return None
    weights = [torch.randn(o.shape, generator=generator(65, i), dtype=o.dtype) for i, o in enumerate(outputs)]

    def value() -> Tensor:
        return torch.stack([(w * o).sum() for w, o in zip(weights, outputs_of(function, arguments), strict=True)]).sum()

    total = value()
    if not total.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    worst = 0.0
    for number, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        found = directional(tensor, value, number)
        if found is None:
            continue
        direction, difference = found
        along = 0.0 if gradient is None else float((gradient * direction).sum())
        size = max(abs(along), abs(difference))
        if abs(difference) <= 1e-6 * size:
            return None
        worst = max(worst, abs(along - difference) / max(size, 1e-9))
    return worst


def outputs_of(function: Any, arguments: tuple[Any, ...]) -> list[Tensor]:
    outputs = function.apply(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [output for output in outputs if isinstance(output, Tensor) and output.is_floating_point()]


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


@torch.no_grad()
def directional(tensor: Tensor, value: Callable[[], Tensor], seed: int) -> tuple[Tensor, float] | None:
    """A random direction of a tensor and the central difference of `value` along it; None if it has no limit."""
    size = float(tensor.square().mean().sqrt()) or 0.1
    direction = torch.randn(tensor.shape, generator=generator(66, seed), dtype=tensor.dtype) * size
    before, found = tensor.clone(), []
    for step in STEPS:
        ends = []
        for sign in (1, -1):
            tensor.copy_(before + sign * step * direction)
            ends.append(float(value()))
        found.append((ends[0] - ends[1]) / (2 * step))
    tensor.copy_(before)
    agree = abs(found[0] - found[1]) <= AGREEMENT * max(abs(found[0]), abs(found[1])) + 1e-7
    return (direction, found[0]) if agree else None


def error_of_loss(target: AuditTarget, model: Any, tokens: Tensor, targets: Tensor) -> tuple[str, float, int]:
    """The last parameter whose gradient is wrong, its relative error, and the number of groups that could be judged.

    A group is a parameter of every layer, judged in the last one: gradients flow from the last module to the first, and
    those of modules after the fault are right. If none is wrong, the error is the largest.

    Gradients that the code stops by `detach` are let through. Where it takes values out of the graph in another way,
    the function and its gradient differ on purpose, and nothing is said. A recipe computes by its references: that its
    fast paths have the same gradients is shown apart.
    """

    def loss() -> Tensor:
        with contextlib.nullcontext() if target.lacks("recipe") else reference_path():
            return training_loss(model, tokens, targets, seed=0).total

    model.zero_grad()
    with NoStoppedGradients(), ValuesTaken() as taken:
        loss().backward()
    if taken.found:
        return "", 0.0, 0
    last_wrong, worst, judged = ("", 0.0), 0.0, 0
    groups: dict[str, tuple[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        groups[re.sub(r"\d+", "*", name)] = (name, parameter)
    for number, (name, parameter) in enumerate(groups.values()):
        if parameter.grad is None:
            continue
        found = directional(parameter, loss, number)
        if found is None:
            continue
        along, difference = float((parameter.grad * found[0]).sum()), found[1]
        size = max(abs(along), abs(difference))
        error = abs(along - difference) / size if size > 1e-6 else 0.0
        judged += 1
        worst = max(worst, error)
        if error > TOLERANCE:
            last_wrong = (name, error)
    return (*last_wrong, judged) if last_wrong[0] else ("", worst, judged)


class ValuesTaken(TorchFunctionMode):
    """Notes whether code takes values of tensors that need a gradient without their gradient."""

    TAKING = (Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__float__, Tensor.data.__get__)  # type: ignore[attr-defined]

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        takes = func in self.TAKING or not torch.is_grad_enabled()
        if takes and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            self.found = True
        return func(*args, **(kwargs or {}))
