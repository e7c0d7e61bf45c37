"""The context in which a part is built: model sizes, layer number, constructors of the layer's other parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LayerContext:
    """The sizes of the model, the number of one of its layers, and callables that build that layer's other parts.

    dim: width of the residual stream.
    heads: the recipe's default number of heads.
    context: the recipe's maximum sequence length in tokens.
    depth: number of layers. index: index of this layer, 0 to `depth` - 1.
    vocab_size: number of tokens in the vocabulary.
    norm: `norm()` builds the recipe's norm of width `dim`, `norm(width)` of another width; `norm_eps` is its epsilon.
    rotation: `rotation(width)` returns the RoPE rotation of heads of width `width`, or None without RoPE.
    new_mixer, new_feedforward, new_layer: build a new module of this layer's kind, with new weights.
    block: the config of the layer's block, for objectives that support one kind of block only.
    """

    dim: int
    heads: int
    context: int
    depth: int
    index: int
    dropout: float
    vocab_size: int
    norm_eps: float
    norm: Callable[..., nn.Module]
    rotation: Callable[[int], Any]
    new_mixer: Callable[[], Any]
    new_feedforward: Callable[[], Any]
    new_layer: Callable[[], Any]
    block: Any = None


SIZES = tuple(field.name for field in fields(LayerContext))[:7]
"""The fields that are numbers; `__init__` of a plug-in's class can have arguments of these names."""
