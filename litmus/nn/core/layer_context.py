"""What a part is built from: the sizes of the model, its layer, and how to build that layer's other parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn


@dataclass(frozen=True)
class LayerContext:
    """The sizes of the model and one of its layers, and callables that build that layer's other parts.

    dim: width of the residual stream.
    heads: the recipe's default number of heads.
    context: the longest sequence that the recipe is meant for, in tokens.
    depth: number of layers. index: number of this layer, from 0 to `depth` - 1.
    vocab_size: number of tokens in the vocabulary.
    norm: `norm()` builds the recipe's norm over `dim` numbers, `norm(width)` over `width`; `norm_eps` is its epsilon.
    rotation: `rotation(width)` is the rotation of query and key heads of `width` numbers, or None.
    new_mixer, new_feedforward, new_layer: build one more such part of this layer, with weights of its own.
    block: how the layer's block is declared, for objectives that train one kind of block.
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
"""The sizes among the fields: what the `__init__` of a plug-in's class may ask for by name."""
