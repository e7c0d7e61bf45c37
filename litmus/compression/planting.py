"""Plant a super weight: a known truth for tests of the search, and for teaching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from litmus.compression.layers import model_with_layers
from litmus.diagnostics import DownProjection, down_inputs, down_projections
from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.nn.layers.blocks import PreNormBlock
from litmus.nn.layers.feedforwards import Gelu, Relu2, Swiglu
from litmus.nn.layers.norms import RMSNorm
from litmus.nn.moe.experts import Experts, MixtureOfExperts

GATE = 4.0
"""Input of the planted unit's silu, where silu is close to the identity."""


@dataclass(frozen=True)
class Plant:
    """A planted super weight W[row, column] in the first layer.

    parameter: the name of its matrix, or of the stack of all experts' matrices, which then all have the weight. value:
    of the weight. hidden: the activation at `column`, about the same for every token. massive: what the weight adds to
    channel `row` of the residual stream.
    """

    parameter: str
    row: int
    column: int
    value: float
    hidden: float
    massive: float


@torch.no_grad()
def plant_super_weight(
    model: Decoder,
    tokens: Tensor,
    *,
    row: int,
    column: int,
    strength: float = 30.0,
    quantile: float = 0.99,
    seed: int = 0,
) -> tuple[Decoder, Plant]:
    """A copy of the model with a super weight and one more layer in front, which computes nearly the same.

    The embedding gets -M in channel `row` for every token, M being `strength` times the norm of the embeddings. The new
    layer adds +M there and passes everything else on: its mixer has no output, and hidden unit `column` of its
    feedforward reads that channel alone, which RMSNorm turns into the constant -sqrt(dim), so that W[row, column] times
    a constant activation restores the channel. The old layers see what they saw before; without the weight they see -M.

    |W[row, column]| is at the `quantile` of its matrix, whose other weights are those of a new layer, so that larger
    ones exist; its activation is as large as this needs. In a mixture of experts every expert gets the weight; shared
    experts, where there are any, alone. tokens (B, T) calibrate the sizes. BadInput for a model whose first layer is
    not a pre-norm block with RMSNorm and a known mixer and feedforward.
    """
    planted = model_with_layers(model, [None, *range(len(model.layers))], seed=seed)
    block = _checked(planted)
    found = [projection for projection in down_projections(planted) if projection.layer == 0]
    targets = [projection for projection in found if projection.expert is None] or found
    rows, columns = targets[0].matrix.shape
    if not (0 <= row < rows and 0 <= column < columns):
        raise BadInput(f"{targets[0].parameter} is {rows} x {columns}, so that it has no weight ({row}, {column})")
    for parameter in block.mixer.out.parameters():
        parameter.zero_()
    embedded: Any = planted.embedding
    norms = embedded(tokens).norm(dim=-1)
    massive = strength * float(norms.mean())
    embedded.weight[:, row] -= massive
    block.feedforward_norm.weight.fill_(strength)  # the other channels keep a size of about 1
    block.feedforward_norm.weight[row] = 1.0
    for matrix in _reading(block.feedforward):
        matrix[..., row] = 0.0
    hidden = massive / float(targets[0].matrix.abs().flatten().float().quantile(quantile))
    for target in targets:
        _make_constant(block.feedforward, target, row, column, hidden)
        target.matrix[:, column] = 0.0
    value = massive / _mean_activation(planted, tokens, targets, column)
    for target in targets:
        target.matrix[row, column] = value
    return planted, Plant(targets[0].parameter, row, column, value, hidden, massive)


def _checked(model: Decoder) -> Any:
    """The first block, if it is one that a super weight can be planted in."""
    block: Any = model.layers[0]
    norms = [getattr(block, name, None) for name in ("mixer_norm", "feedforward_norm")]
    if type(block) is not PreNormBlock or not all(isinstance(norm, RMSNorm) for norm in norms):
        raise BadInput("the first layer is not a pre-norm block with RMSNorm, which a planted super weight needs")
    if not isinstance(model.embedding, nn.Embedding) or not isinstance(getattr(block.mixer, "out", None), nn.Linear):
        raise BadInput("planting a super weight needs an embedding table and a mixer with an output projection `out`")
    return block


def _reading(feedforward: nn.Module) -> list[Tensor]:
    """The matrices (..., dim) of a feedforward that read the normed residual stream."""
    if isinstance(feedforward, MixtureOfExperts):
        shared = [] if feedforward.shared is None else _reading(feedforward.shared)
        return [feedforward.router.weight, feedforward.experts.gate_up, *shared]
    if isinstance(feedforward, Swiglu):
        return [feedforward.gate_up.weight]
    if isinstance(feedforward, Gelu | Relu2):
        return [feedforward.up.weight]
    raise BadInput(f"a super weight can be planted in gelu, relu2, swiglu and moe, not in {type(feedforward).__name__}")


def _make_constant(feedforward: Any, target: DownProjection, row: int, column: int, hidden: float) -> None:
    """Make unit `column` read channel `row` alone, whose normed value is about -sqrt(dim), and become `hidden`."""
    channel = -math.sqrt(len(target.matrix))
    if isinstance(feedforward, Gelu | Relu2):
        up, value = feedforward.up, hidden if isinstance(feedforward, Gelu) else math.sqrt(hidden)
        halves, biases, inputs = [up.weight.data], up.bias, [value]
    else:
        inputs = [GATE, hidden / (GATE / (1 + math.exp(-GATE)))]
        if isinstance(target.module, Experts):
            halves, biases = list(target.module.gate_up.data[target.expert].chunk(2)), None
        else:
            swiglu: Any = feedforward.shared if isinstance(feedforward, MixtureOfExperts) else feedforward
            halves, biases = list(swiglu.gate_up.weight.data.chunk(2)), swiglu.gate_up.bias
    for half, value in zip(halves, inputs, strict=True):
        half[column] = 0.0
        half[column, row] = value / channel
    if biases is not None:
        for part in biases.data.chunk(len(halves)):
            part[column] = 0.0


def _mean_activation(model: Decoder, tokens: Tensor, targets: list[DownProjection], column: int) -> float:
    """Mean over tokens of the activation at `column`; of experts, the sum over a token's experts weighted by gates."""
    total = 0.0

    def add(projection: DownProjection, x: Tensor, numbers: Tensor, gates: Tensor | None) -> None:
        nonlocal total
        total += float((x[:, column] if gates is None else x[:, column] * gates).double().sum())

    with down_inputs(targets, add):
        model.hidden(tokens)
    return total / tokens.numel()
