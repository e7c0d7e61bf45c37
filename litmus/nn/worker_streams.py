"""The two streams of a worker model: what is remembered of every token, and the tokens asked for a prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from litmus.nn.spaced import Places
from litmus.nn.step import Step
from litmus.nn.terms import Terms


@dataclass(frozen=True)
class Group:
    """Tokens that are asked for a prediction in the same way.

    step: positions and all that belongs to these tokens, (B, N). index: (B, N) where they stand, None when they are
    all tokens in order. real: (B, N) False where a row has fewer of them. in_memory: they are the memory's own workers,
    so that what the memory holds at their places is what they make themselves.
    """

    step: Step
    places: Places
    index: Tensor | None = None
    real: Tensor | None = None
    in_memory: bool = False

    def of(self, states: Tensor) -> Tensor:
        """The states (B, N, ...) of these tokens among those of all tokens (B, T, ...)."""
        return states if self.index is None else rows(states, self.index)

    def per_token(self, values: Tensor, missing: Any) -> Tensor:
        """Their values (B, N) among those of all tokens (B, T), `missing` where a row has fewer of them."""
        return self.of(values) if self.real is None else self.of(values).masked_fill(~self.real, missing)


@dataclass(frozen=True)
class Asked:
    """All tokens that are asked, group by group; `workers` (B, T) says who is a worker in the memory."""

    groups: list[Group]
    step: Step
    workers: Tensor


@dataclass
class Streams:
    """The memory (B, T, dim) as it is between two layers, and who is asked; the vectors of the asked are passed on."""

    memory: Tensor
    asked: Asked


@dataclass(frozen=True)
class AskingTerms(Terms):
    """The terms of a loss that asks some tokens only: layers return vectors (B, N, dim) for these."""

    asked: Asked | None = None


def everyone(step: Step, workers: Tensor) -> Asked:
    """Every token is asked: evaluation, decoding, and training by any objective that scores every token."""
    length = step.positions.shape[1]
    index = step.positions if step.cache else torch.arange(length, device=step.positions.device)[None]
    first = step.start if step.cache else 0
    reach = [step.used] * length if first is None else range(first + 1, first + length + 1)
    return Asked([Group(step, Places(index, reach))], step, workers)


def drawn(step: Step, workers: Tensor, interval: int, others: Tensor | None = None, stride: int = 1) -> Asked:
    """The memory's workers (B, T) are asked, every `interval` tokens, and `others` (B, T), every `stride` tokens."""
    groups = [_group(workers, interval, step, in_memory=True)]
    if others is not None:
        groups.append(_group(others, stride, step, in_memory=False))
    index = torch.cat([group.places.index for group in groups], dim=1)
    return Asked(groups, _step_of(index, step), workers)


def counting(terms: Terms, asked: Asked) -> AskingTerms:
    """The terms of a loss over the tokens asked; layers then see which of these count, (B, N)."""
    counted = torch.cat([group.per_token(terms.counted, False) for group in asked.groups], dim=1)
    of_asked = replace(asked, step=replace(asked.step, terms=Terms(counted, terms.left)))
    return AskingTerms(terms.counted, terms.left, terms.scored, of_asked)


def rows(states: Tensor, index: Tensor) -> Tensor:
    """The states (B, N, ...) at index (B, N) of states (B, T, ...)."""
    if states.ndim == 2:
        return states.gather(1, index)
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _group(chosen: Tensor, stride: int, step: Step, *, in_memory: bool) -> Group:
    """The tokens where `chosen` (B, T) is True; in rows without padding and documents, every `stride`-th."""
    length = chosen.shape[1]
    regular = step.start is not None
    most = math.ceil(length / stride) if regular else int(chosen.sum(1).max())
    index = chosen.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    reach: Any = [min(length, stride * (number + 1)) for number in range(most)]
    if not regular:
        reach = (index.amax(0).cummax(0).values + 1).tolist() if most else []
    return Group(_step_of(index, step), Places(index, reach), index, chosen.gather(1, index), in_memory)


def _step_of(index: Tensor, step: Step) -> Step:
    """The step of the tokens at index (B, N) alone."""
    return Step(step.positions.gather(1, index), None, fast=step.fast, observed=step.observed)
