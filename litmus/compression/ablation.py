"""The loss with single weights of down-projections scaled or zeroed, over the same text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from litmus.diagnostics import DownProjection
from litmus.diagnostics.down_projections import projection_input
from litmus.model import Decoder
from litmus.nn import Batch
from litmus.nn.core.batch import use_reference
from litmus.nn.layers.blocks import PreNormBlock, SingleResidualBlock
from litmus.nn.objectives.cross_entropy import token_cross_entropy
from litmus.nn.objectives.objective import Objective

MAX_TOKENS = 8192
"""Tokens of all variants together in one forward pass."""


@dataclass(frozen=True)
class Edit:
    """Weights W[rows, columns] of one down-projection, each multiplied by `factor`; 0 ablates them."""

    projection: DownProjection
    rows: Tensor
    columns: Tensor
    factor: float = 0.0

    @classmethod
    def of(cls, projection: DownProjection, row: int, column: int, factor: float = 0.0) -> Edit:
        """The edit of one weight."""
        return cls(projection, torch.tensor([row]), torch.tensor([column]), factor)


@contextlib.contextmanager
def edited(edits: Sequence[Edit]) -> Iterator[None]:
    """In this block the weights of all edits are changed; afterwards they are as before, bit for bit."""
    before = [edit.projection.matrix[edit.rows, edit.columns].clone() for edit in edits]
    try:
        for edit in edits:
            edit.projection.matrix[edit.rows, edit.columns] *= edit.factor
        yield
    finally:
        for edit, values in zip(reversed(edits), reversed(before), strict=True):
            edit.projection.matrix[edit.rows, edit.columns] = values


@torch.no_grad()
def block_losses(model: Decoder, batch: Batch) -> Tensor:
    """Nats (B,), summed over the scored tokens of each row; fp64."""
    return model.token_losses(batch).double().sum(1)


@torch.no_grad()
def edited_losses(model: Decoder, batch: Batch, edits: Sequence[Edit]) -> Tensor:
    """`block_losses` (N, B) with each of N edits alone.

    The reference changes the weights and runs the whole model for each edit. The fast path runs the layers below an
    edit once, and from its layer on several variants of the batch at a time: the edit changes Y = X Wᵀ by (factor - 1)
    W[row, column] X[:, column] in channel `row`, which a hook adds to the rows of its variant.
    """
    if use_reference() or not _can_batch(model):
        losses = []
        for edit in edits:
            with edited([edit]):
                losses.append(block_losses(model, batch))
        return torch.stack(losses)
    found = torch.empty(len(edits), len(batch.tokens), dtype=torch.float64)
    by_layer: dict[int, list[int]] = {}
    for number, edit in enumerate(edits):
        by_layer.setdefault(edit.projection.layer, []).append(number)
    at_once = max(1, MAX_TOKENS // batch.tokens.numel())
    for layer, x in _inputs_of_layers(model, batch, sorted(by_layer)):
        numbers = by_layer[layer]
        for first in range(0, len(numbers), at_once):
            chosen = numbers[first : first + at_once]
            found[chosen] = _variants(model, batch, layer, x, [edits[number] for number in chosen]).cpu()
    return found


def _can_batch(model: Decoder) -> bool:
    """Whether the model is a chain of blocks over (B, T, dim) whose rows do not depend on each other."""
    blocks = all(type(layer) in (PreNormBlock, SingleResidualBlock) for layer in model.layers)
    return blocks and type(model.objective).token_losses is Objective.token_losses


def _inputs_of_layers(model: Decoder, batch: Batch, layers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """(number, input (B, T, dim)) of each of these layers, in one pass up to the last of them."""
    ctx = model.forward_context(batch)
    x = model.positions(model.embed(batch.tokens, ctx), ctx)
    for number in range(layers[-1] + 1):
        if number in layers:
            yield number, x
        x = model.layers[number](x, ctx)


def _variants(model: Decoder, batch: Batch, layer: int, x: Tensor, edits: Sequence[Edit]) -> Tensor:
    count, (rows, length) = len(edits), batch.tokens.shape
    repeated = replace(batch, **{name: part.repeat(count, 1) for name, part in vars(batch).items() if part is not None})
    ctx = model.forward_context(repeated)
    x = x.repeat(count, 1, 1)
    by_module: dict[int, list[tuple[int, Edit]]] = {}
    for variant, edit in enumerate(edits):
        by_module.setdefault(id(edit.projection.module), []).append((variant, edit))

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        flat = changed.view(-1, changed.shape[-1])
        received: dict[DownProjection, tuple[Tensor, Tensor, Tensor | None]] = {}
        for variant, edit in by_module[id(module)]:
            if edit.projection not in received:
                received[edit.projection] = projection_input(edit.projection, inputs)
            hidden, tokens, gates = received[edit.projection]
            ends = torch.tensor([variant, variant + 1], device=tokens.device) * rows * length
            own = slice(*torch.searchsorted(tokens, ends).tolist())  # the numbers of tokens ascend
            values = edit.projection.matrix[edit.rows, edit.columns] * (edit.factor - 1)
            change = hidden[own][:, edit.columns] * values
            if gates is not None:
                change = change * gates[own, None].to(change.dtype)
            flat.index_put_((tokens[own, None], edit.rows[None]), change.to(flat.dtype), accumulate=True)
        return changed

    modules = {id(edit.projection.module): edit.projection.module for edit in edits}
    handles = [module.register_forward_hook(hook) for module in modules.values()]
    try:
        for number in range(layer, len(model.layers)):
            x = model.layers[number](x, ctx)
    finally:
        for handle in handles:
            handle.remove()
    losses = token_cross_entropy(model.head, model.norm(x).flatten(0, 1), repeated.scored_targets.flatten())
    return losses.view(count, rows, length).double().sum(2)
