"""HFAdapter: how recipe, config.json and tensors of one published architecture correspond to Litmus's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Any

from litmus.interop.hf.config import Config
from litmus.interop.hf.state_dict_mapping import TensorMapping
from litmus.model import Decoder, Recipe
from litmus.nn import Part


class HFAdapter(ABC):
    """One published architecture, by the name that config.json has for its model class."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture

    @abstractmethod
    def incompatibilities(self, recipe: Recipe) -> list[str]:
        """Why the recipe cannot be written in this architecture, each reason with the change that would remove it."""

    @abstractmethod
    def hf_config(self, model: Decoder) -> dict[str, Any]:
        """config.json of a compatible model."""

    @abstractmethod
    def to_recipe(self, config: Config, names: Collection[str]) -> dict[str, Any]:
        """The recipe of a config.json and the names of the tensors next to it."""

    @abstractmethod
    def state_dict_mapping(self, model: Decoder) -> list[TensorMapping]:
        """The published tensors of each tensor of the model."""

    def map_key(self, name: str) -> str | None:
        """A tensor's name in a file as `state_dict_mapping` has it; None for one that is not read."""
        return name

    def tensor_scales(self, config: Config) -> dict[str, float]:
        """Factors of config.json that are part of Litmus's tensors, by the suffix of the published names."""
        return {}


def require(holds: bool, found: str, change: str) -> list[str]:
    """One incompatibility unless `holds`."""
    return [] if holds else [f"{found} ({change})"]


def common_incompatibilities(recipe: Recipe, *, norm: str, positions: str) -> list[str]:
    """Incompatibilities that all architectures share: another block, norm or positions, or a head with a bias."""
    blocks = {parts["block"].kind for parts in recipe.layer_parts()}
    return [
        *require(blocks == {"prenorm"}, f"block is {' and '.join(sorted(blocks))!r}", "set block to prenorm"),
        *require(recipe.norm.kind == norm, f"norm is {recipe.norm.kind!r}", f"set norm to {norm}"),
        *require(
            recipe.positions.kind == positions,
            f"positions is {recipe.positions.kind!r}",
            f"set positions to {positions}",
        ),
        *structure_incompatibilities(recipe),
        *require(not getattr(recipe.head, "bias", False), "the head has a bias", "set head.bias to false"),
    ]


def structure_incompatibilities(recipe: Recipe) -> list[str]:
    """Incompatibilities of every architecture: another kind of embedding or head, or layers that share weights."""
    return [
        *require(recipe.embedding.kind == "table", f"embedding is {recipe.embedding.kind!r}", "set it to table"),
        *require(recipe.head.kind == "linear", f"head is {recipe.head.kind!r}", "set it to linear"),
        *require(not any(group.shared for group in recipe.layers), "layers share weights", "set shared to false"),
    ]


def layer_incompatibilities(recipe: Recipe) -> list[str]:
    """An incompatibility unless all layers are alike."""
    layers = recipe.layer_parts()
    return require(
        all(parts == layers[0] for parts in layers), "layers differ from each other", "make all layers alike"
    )


def part_incompatibilities(part: Part, family: str, kind: str, known: Iterable[str]) -> list[str]:
    """Incompatibilities of one part: its kind, or options other than the `known` ones that are not at their default."""
    if part.kind != kind:
        return [f"{family} is {part.kind!r} (set {family} to {kind})"]
    fields = type(part).model_fields
    options = [name for name in fields if name not in ("kind", *known) and getattr(part, name) != fields[name].default]
    return [f"{family}.{name} (leave it out)" for name in options]
