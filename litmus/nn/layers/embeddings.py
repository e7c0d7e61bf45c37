"""Token embeddings, and heads that map hidden states to logits."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from litmus.errors import BadInput
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.registry import Part
from litmus.nn.layers.linear import INIT_STD, linear


class EmbeddingConfig(Part):
    """Base config of embeddings, from token ids (B, T) to vectors (B, T, dim).

    An embedding with `forward(tokens, ctx)` and a `new_cache` can read earlier tokens too.
    """

    family: ClassVar[str] = "embedding"


class TableConfig(EmbeddingConfig):
    """A learned vector per token."""

    kind: Literal["table"] = "table"

    def build(self, layer: LayerContext) -> nn.Module:
        table = nn.Embedding(layer.vocab_size, layer.dim)
        nn.init.normal_(table.weight, std=INIT_STD)
        return table


class HeadConfig(Part):
    """Base config of heads, from hidden states (..., dim) to logits (..., V); `tied`: share the embedding's weight."""

    family: ClassVar[str] = "head"
    tied: bool = False


class LinearHeadConfig(HeadConfig):
    kind: Literal["linear"] = "linear"
    tied: bool = True
    bias: bool = False

    def build(self, layer: LayerContext) -> nn.Module:
        return linear(layer.dim, layer.vocab_size, bias=self.bias)


class LinearHead(nn.Linear):
    """The linear head as a base class: override `forward(x)` and call `super().forward(x)` for its logits."""

    def __init__(self, config: LinearHeadConfig, layer: LayerContext) -> None:
        super().__init__(layer.dim, layer.vocab_size, bias=config.bias)
        nn.init.normal_(self.weight, std=INIT_STD)
        if config.bias:
            nn.init.zeros_(self.bias)


def tie(head: nn.Module, embedding: nn.Module) -> None:
    """Make the head share the embedding's weight (V, dim)."""
    weight, table = (getattr(module, "weight", None) for module in (head, embedding))
    if not isinstance(weight, nn.Parameter) or not isinstance(table, nn.Parameter) or weight.shape != table.shape:
        raise BadInput(
            f"head.tied shares the embedding's weight, but {type(head).__name__} and {type(embedding).__name__} have "
            "no weight of one shape (vocabulary, dim); head.tied=false is valid"
        )
    head.weight = table
