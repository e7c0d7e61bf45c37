"""Find super weights: single weights of down-projections without which the loss rises as without no other weight.

Yu et al. 2024, arXiv 2411.07191: one forward pass records the largest |X| and |Y| of each down-projection Y = X Wᵀ, and
the weight at (channel of Y, channel of X) is the candidate; it is zeroed, and the search repeated, until no spike is
left. Here a spike is judged by its ratio to the median channel of the same matrix, and a candidate by its ablation
against controls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from litmus.compression.ablation import Edit, block_losses, edited, edited_losses
from litmus.diagnostics import DownProjection, down_inputs, down_projections
from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.nn import Batch
from litmus.training.paired import Estimate, ratio_interval

MIN_RATIO = 8.0
"""A spike is at least this many times the median channel's maximum, in the input and in the output."""

MIN_EFFECT = 0.01
"""Nats per token by which zeroing a super weight raises the loss at least."""

MIN_FACTOR = 10.0
"""A super weight's effect is at least this many times the largest effect of any control."""

MAX_PASSES = 3
"""Forward passes of the search; each zeroes the candidates of the one before."""

MAX_CANDIDATES = 16
"""Candidates that are ablated: those with the largest spikes."""

CONTROLS = ("matrix", "row", "column", "random")
"""Where controls are from: weights next in magnitude in the same matrix, row or column; random ones of all matrices."""

Verdict = Literal["super weight", "one of several", "large but harmless"]
"""One of several: the loss rises without it, and not far more than without its controls."""


@dataclass(frozen=True)
class Spikes:
    """Largest |input| and |output| of one down-projection over all prompts; channels of each prompt's largest ones.

    ratios: to the median over channels of each channel's maximum. positions: token of a prompt with the largest input.
    """

    projection: DownProjection
    row: int
    column: int
    input: float
    input_ratio: float
    output: float
    output_ratio: float
    prompt_rows: Tensor
    prompt_columns: Tensor
    positions: Tensor

    @property
    def ratio(self) -> float:
        """The smaller of both ratios."""
        return min(self.input_ratio, self.output_ratio)


@dataclass(frozen=True)
class Candidate:
    """A weight at a spike, what zeroing it does, and what zeroing its controls does (nats per token, 95 % intervals).

    agreement: share of the prompts whose own largest activations name the same weight. found_in: number of the pass.
    controls: by kind, the increases of the loss without each of them.
    """

    projection: DownProjection
    row: int
    column: int
    value: float
    spikes: Spikes
    agreement: float
    found_in: int
    increase: Estimate | None = None
    controls: dict[str, list[float]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where the weight is: its matrix, row and column."""
        return f"{self.projection.place}[{self.row}, {self.column}]"

    @property
    def largest_control(self) -> float:
        """The largest change of the loss without a control."""
        return max((abs(value) for values in self.controls.values() for value in values), default=0.0)

    @property
    def verdict(self) -> Verdict:
        """Whether its effect is above zero and not negligible, and far above that of every control."""
        assert self.increase is not None
        if self.increase.low <= 0 or self.increase.mean < MIN_EFFECT:
            return "large but harmless"
        return "super weight" if self.increase.mean >= MIN_FACTOR * self.largest_control else "one of several"

    def to_dict(self) -> dict[str, Any]:
        """The candidate as plain data."""
        assert self.increase is not None
        return {
            "layer": self.projection.layer,
            "parameter": self.projection.parameter,
            "expert": self.projection.expert,
            "row": self.row,
            "column": self.column,
            "value": self.value,
            "input": self.spikes.input,
            "input_ratio": self.spikes.input_ratio,
            "output": self.spikes.output,
            "output_ratio": self.spikes.output_ratio,
            "agreement": self.agreement,
            "positions": self.spikes.positions.tolist(),
            "found_in_pass": self.found_in,
            "loss_increase": vars(self.increase),
            "controls": self.controls,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Search:
    """The result of a search over `batch`: candidates, the largest effect first, and the spikes of each pass.

    passes: the spikes of every down-projection by pass; the last are those with all candidates zeroed. losses (B,) and
    tokens (B,): nats and scored tokens of each block of text with the weights as they are.
    """

    candidates: list[Candidate]
    passes: list[list[Spikes]]
    losses: Tensor
    tokens: Tensor

    @property
    def super_weights(self) -> list[Candidate]:
        """The candidates that are super weights."""
        return [candidate for candidate in self.candidates if candidate.verdict == "super weight"]

    @property
    def largest_spike(self) -> float:
        """The largest ratio of a spike to the median channel, with the weights as they are."""
        return max((one.ratio for one in self.passes[0]), default=0.0)

    @property
    def verdict(self) -> str:
        """The verdict on the model in words."""
        counts = Counter(candidate.verdict for candidate in self.candidates)
        found = counts.pop("super weight", 0)
        others = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), reverse=True))
        if found:
            return f"{found} super weight{'s' if found > 1 else ''} found"
        return f"none found: {others or 'no activation stands out'}"


def find_super_weights(
    model: Decoder, batch: Batch, *, controls: int = 5, max_candidates: int = MAX_CANDIDATES, seed: int = 0
) -> Search:
    """Search the model, in evaluation mode, over blocks of text `batch` (B, T) with targets; its weights stay the same.

    controls: number of control weights of each kind (CONTROLS), which are ablated for candidates whose own effect is at
    least MIN_EFFECT and for the candidate with the largest. BadInput for a model without a down-projection, or with a
    loss that is not finite.
    """
    projections = down_projections(model)
    if not projections:
        raise BadInput(f"{model.recipe.name!r} has no feedforward down-projection, where super weights are")
    losses, tokens = block_losses(model, batch), (batch.scored_targets >= 0).sum(1).double()
    if not losses.isfinite().all():
        raise BadInput(f"the loss of {model.recipe.name!r} on this text is not finite; its weights may hold NaN")
    candidates, passes = _candidates(model, batch, projections)
    candidates = sorted(candidates, key=lambda one: -one.spikes.ratio)[:max_candidates]
    if not candidates:
        return Search([], passes, losses, tokens)
    increases = edited_losses(model, batch, [Edit.of(one.projection, one.row, one.column) for one in candidates])
    candidates = [
        replace(one, increase=ratio_interval(increase, tokens))
        for one, increase in zip(candidates, increases.cpu() - losses.cpu(), strict=True)
    ]
    candidates.sort(key=lambda one: -_effect(one))
    judged = [
        _with_controls(model, batch, one, projections, controls, seed, losses, tokens)
        if number == 0 or _effect(one) >= MIN_EFFECT
        else one
        for number, one in enumerate(candidates)
    ]
    return Search(judged, passes, losses, tokens)


def protected_weights(search: Search) -> dict[str, list[tuple[int, ...]]]:
    """The positions of the super weights, by the parameter's name: what pruning and quantization leave exact."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for one in search.super_weights:
        expert = () if one.projection.expert is None else (one.projection.expert,)
        found.setdefault(one.projection.parameter, []).append((*expert, one.row, one.column))
    return found


def _effect(candidate: Candidate) -> float:
    assert candidate.increase is not None
    return candidate.increase.mean


def _candidates(
    model: Decoder, batch: Batch, projections: list[DownProjection]
) -> tuple[list[Candidate], list[list[Spikes]]]:
    """The weights at spikes, each pass with those of the passes before it zeroed."""
    found: list[Candidate] = []
    passes: list[list[Spikes]] = []
    while len(passes) < MAX_PASSES:
        zeroed = [Edit.of(one.projection, one.row, one.column) for one in found]
        with edited(zeroed):
            passes.append(spikes(model, batch, projections))
        known = {(one.projection, one.row, one.column) for one in found}
        new = [
            Candidate(
                one.projection,
                one.row,
                one.column,
                float(one.projection.matrix[one.row, one.column]),
                one,
                float(((one.prompt_rows == one.row) & (one.prompt_columns == one.column)).double().mean()),
                len(passes),
            )
            for one in passes[-1]
            if one.ratio >= MIN_RATIO and (one.projection, one.row, one.column) not in known
        ]
        if not new:
            break
        found += new
    return found, passes


def _with_controls(
    model: Decoder,
    batch: Batch,
    candidate: Candidate,
    projections: list[DownProjection],
    count: int,
    seed: int,
    losses: Tensor,
    tokens: Tensor,
) -> Candidate:
    """The candidate with the effects of `count` control weights of each kind."""
    chosen = _controls(candidate, projections, count, seed)
    edits = [Edit.of(*place) for places in chosen.values() for place in places]
    changes = ((edited_losses(model, batch, edits).cpu() - losses.cpu()).sum(1) / tokens.cpu().sum()).tolist()
    effects = {kind: [changes.pop(0) for _ in places] for kind, places in chosen.items()}
    return replace(candidate, controls=effects)


def _controls(
    candidate: Candidate, projections: list[DownProjection], count: int, seed: int
) -> dict[str, list[tuple[DownProjection, int, int]]]:
    projection, row, column = candidate.projection, candidate.row, candidate.column
    distance = (projection.matrix.abs() - abs(candidate.value)).abs().float()
    distance[row, column] = torch.inf  # not its own control
    width = distance.shape[1]

    def nearest(values: Tensor) -> list[int]:
        return values.topk(min(count, len(values) - 1), largest=False).indices.tolist()

    random = torch.Generator().manual_seed(seed)
    any_of_them = []
    for number in torch.randint(len(projections), (count,), generator=random).tolist():
        rows, columns = projections[number].matrix.shape
        place = [int(torch.randint(size, (), generator=random)) for size in (rows, columns)]
        if (projections[number], *place) != (projection, row, column):
            any_of_them.append((projections[number], *place))
    return {
        "matrix": [(projection, *divmod(at, width)) for at in nearest(distance.flatten())],
        "row": [(projection, row, at) for at in nearest(distance[row])],
        "column": [(projection, at, column) for at in nearest(distance[:, column])],
        "random": any_of_them,
    }


@torch.no_grad()
def spikes(model: Decoder, batch: Batch, projections: list[DownProjection]) -> list[Spikes]:
    """The spikes of each projection that receives tokens, in one forward pass; Y is taken without a bias."""
    found: dict[DownProjection, Spikes] = {}

    def record(projection: DownProjection, x: Tensor, tokens: Tensor, gates: Tensor | None) -> None:
        if len(x):
            now = _spikes(projection, x.float(), tokens, batch.tokens.shape)
            if projection not in found or now.ratio > found[projection].ratio:  # layers may share their weights
                found[projection] = now

    with down_inputs(projections, record):
        model.hidden(batch)
    return list(found.values())


def _spikes(projection: DownProjection, x: Tensor, tokens: Tensor, shape: torch.Size) -> Spikes:
    prompts, length = shape
    prompt = tokens // length

    def maxima(values: Tensor) -> Tensor:
        """The largest |value| of each channel in each prompt (prompts, channels)."""
        zeros = values.new_zeros(prompts, values.shape[1])
        return zeros.scatter_reduce(0, prompt[:, None].expand_as(values), values.abs(), "amax")

    inputs, outputs = maxima(x), maxima(x @ projection.matrix.float().T)
    largest = x.abs().amax(1)
    positions = [
        int((tokens[own] % length)[largest[own].argmax()]) for n in range(prompts) if (own := prompt == n).any()
    ]
    seen = [n for n in range(prompts) if (prompt == n).any()]
    (column, input, input_ratio), (row, output, output_ratio) = map(_largest, (inputs.amax(0), outputs.amax(0)))
    rows, columns = outputs[seen].argmax(1), inputs[seen].argmax(1)
    at = torch.tensor(positions)
    return Spikes(projection, row, column, input, input_ratio, output, output_ratio, rows.cpu(), columns.cpu(), at)


def _largest(maxima: Tensor) -> tuple[int, float, float]:
    """The channel with the largest maximum, that maximum, and its ratio to the median of those that are not 0."""
    value, channel = maxima.max(0)
    alive = maxima[maxima > 0]
    return int(channel), float(value), float(value / alive.median()) if len(alive) else 0.0
