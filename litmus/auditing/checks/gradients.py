"""Which parameters, rows and columns ever receive a gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from litmus.auditing.check import Evidence, needs, plural
from litmus.auditing.hooks import captured, training_loss
from litmus.auditing.target import AuditTarget

ROWS, LENGTH, PASSES = 8, 48, (16, 64)
LONG_ROWS, LONG_PASSES = 2, 2
"""Batches of the whole context, for tables by distance and filters whose ends only a long text reaches."""

MAX_NAMES_SHOWN = 4
Slices = list[tuple[int, int]]
"""(dimension, index) of slices of a parameter."""


@needs("loss", "weights")
def gradients_everywhere(target: AuditTarget) -> Iterator[Evidence]:
    """Every parameter, expert, row and column has a nonzero gradient in some batch."""
    gradients: dict[str, Tensor] = {}
    positions = torch.zeros(target.length(LENGTH), dtype=torch.bool)
    # Rows of embedding tables are used only by their own token, wherever the table is.
    tables = {f"{name}.weight" for name, part in target.model.named_modules() if isinstance(part, nn.Embedding)}
    whole = min(target.context, target.reach)

    def missing() -> bool:
        return not positions.all() or any(not g.any() or dead_slices(n, g, tables) for n, g in gradients.items())

    for model in (copy.deepcopy(target.model), target.build_model()):
        for seed in range(target.pick(*PASSES)):
            add_gradients(target, model, (ROWS, len(positions)), seed, gradients, positions)
            if seed and not missing():
                break
        if not missing():
            break
        for seed in range(LONG_PASSES if whole > LENGTH else 0):
            add_gradients(target, model, (LONG_ROWS, whole), seed, gradients, positions)
    too_long = (
        set() if whole == target.context else {n for n, g in gradients.items() if max(g.shape, default=0) > whole}
    )
    unused = [name for name, gradient in gradients.items() if not gradient.any()]
    dead = {
        name: slices
        for name, gradient in gradients.items()
        if name not in unused and name not in too_long and (slices := dead_slices(name, gradient, tables))
    }
    yield from faults(gradients, unused, dead, positions)
    if not unused and not dead:
        yield Evidence(f"all {len(gradients)} parameters receive a gradient")


def faults(
    gradients: dict[str, Tensor], unused: list[str], dead: dict[str, Slices], positions: Tensor
) -> Iterator[Evidence]:
    if unused:
        yield Evidence(
            f"{plural(len(unused), 'parameter')} of {len(gradients)} never receive a gradient: {first_names(unused)}",
            fault=True,
            measured=len(unused),
            tolerance=0,
            where=unused[0],
            mark="has parameters that never train",
            meaning="They count as parameters and have no effect: an expert without tokens, a layer that is bypassed.",
        )
    if dead:
        worst = max(dead, key=lambda name: len(dead[name]) / sum(gradients[name].shape))
        dimension = dead[worst][0][0]
        indices = [str(index) for d, index in dead[worst] if d == dimension]
        kind = "columns" if dimension else "units (experts, rows)"
        yield Evidence(
            f"{len(indices)} of {gradients[worst].shape[dimension]} {kind} of {worst} never receive a gradient",
            fault=True,
            measured=len(indices) / gradients[worst].shape[dimension],
            tolerance=0.0,
            where=f"{worst}, {'columns' if dimension else 'units'} {first_names(indices)}",
            mark="has dead units",
            meaning="Dead units and experts without tokens cost memory and count as parameters.",
        )
    if not positions.all():
        yield Evidence(
            f"the vectors of {int((~positions).sum())} of {len(positions)} positions receive no gradient",
            fault=True,
            where=f"position {int((~positions).nonzero()[0])}",
            mark="trains on some positions only",
            meaning="Tokens at these positions have no influence on training.",
        )


def add_gradients(
    target: AuditTarget,
    model: Any,
    shape: tuple[int, int],
    seed: int,
    gradients: dict[str, Tensor],
    positions: Tensor,
) -> None:
    """Add the magnitudes of one batch's gradients to `gradients`, by parameter; mark `positions` that have one."""
    tokens, targets = target.tokens(*shape, seed=50 + seed), target.tokens(*shape, seed=500 + seed)
    with captured(model.embedding) as vectors:
        training_loss(model, tokens, targets, seed=seed).total.backward()
    for vector in vectors:
        # A model that shifts its labels itself is given one token more.
        if vector.grad is not None and len(vector) == len(tokens) and vector.shape[1] >= tokens.shape[1]:
            positions |= vector.grad.ne(0).any(-1).any(0)[: len(positions)]
    for name, parameter in model.named_parameters():
        size = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()
        gradients[name] = gradients.get(name, 0) + size
    model.zero_grad()


def dead_slices(name: str, gradient: Tensor, tables: set[str]) -> Slices:
    """Slices without any gradient, along each dimension of a layer's matrix or stack of matrices."""
    if gradient.ndim < 2 or name in tables or not name.startswith(("layers.", "module.")):
        return []  # rows of position tables are used only by their own position
    used = gradient.ne(0)
    found: Slices = []
    for dimension in range(gradient.ndim):
        others = [d for d in range(gradient.ndim) if d != dimension]
        found += [(dimension, int(index)) for index in (~used.amax(others)).nonzero()[:, 0]]
    return found


def first_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + more
