"""The recipe: a validated description of an architecture, from which a model is built."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from litmus.bounds import MAX_INT, Bounded
from litmus.errors import BadInput, first_fault, shown
from litmus.names import check_name
from litmus.nn.attention.multihead import AttentionConfig
from litmus.nn.core.layer_context import LayerContext
from litmus.nn.core.mixer import MixerConfig
from litmus.nn.core.random_streams import RandomStreams
from litmus.nn.core.registry import PLUGIN_PREFIX, Part, parse_config, plugin_kinds, with_current_kind
from litmus.nn.layers.blocks import BlockConfig, PreNormConfig
from litmus.nn.layers.embeddings import EmbeddingConfig, HeadConfig, LinearHeadConfig, TableConfig
from litmus.nn.layers.feedforwards import FeedforwardConfig, SwigluConfig
from litmus.nn.layers.norms import NormConfig, RMSNormConfig
from litmus.nn.layers.positions import PositionsConfig, RopeConfig
from litmus.nn.objectives.objective import NextTokenConfig, ObjectiveConfig
from litmus.yaml_json import as_yaml

STRICT = ConfigDict(extra="forbid", frozen=True)

MAX_DEPTH = 100_000
"""Maximum number of layers, as lists of all layers are created."""

FAMILIES: dict[str, type[Part]] = {
    "embedding": EmbeddingConfig,
    "norm": NormConfig,
    "positions": PositionsConfig,
    "mixer": MixerConfig,
    "feedforward": FeedforwardConfig,
    "block": BlockConfig,
    "head": HeadConfig,
    "objective": ObjectiveConfig,
}


class LayerGroup(Bounded):
    """`repeat` consecutive layers; `mixer`, `feedforward` and `block` are diffs against those of the recipe.

    repeat: a number, "half" (half of the depth, rounded down, to fit every size), or "rest" (in at most one group).
    shared: the layers share their weights (Dehghani et al. 2018, arXiv 1807.03819).
    """

    model_config = STRICT
    repeat: int | Literal["half", "rest"] = "rest"
    mixer: dict[str, Any] | None = None
    feedforward: dict[str, Any] | None = None
    block: dict[str, Any] | None = None
    shared: bool = False

    @field_validator("mixer", "feedforward", "block", mode="before")
    @classmethod
    def _current_kind(cls, raw: Any, info: Any) -> Any:
        return with_current_kind(FAMILIES[info.field_name], raw) if isinstance(raw, dict) else raw

    @field_validator("repeat", mode="before")
    @classmethod
    def _layers(cls, raw: Any) -> Any:
        if raw not in ("half", "rest") and (not isinstance(raw, int) or raw < 1):
            raise BadInput(f"a layer group repeats {raw!r} times; a number of at least 1, 'half' or 'rest' is valid")
        return raw


class PluginSource(BaseModel):
    """The plug-in file that defines kinds of this recipe, and its sha256."""

    model_config = STRICT
    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @property
    def module(self) -> str:
        """Name of the Python module of this version of this file."""
        return plugin_module(self.path, self.sha256)


class Recipe(Bounded):
    """An architecture. `mixer`, `feedforward` and `block` apply to all layers, unless a layer group changes them."""

    model_config = STRICT
    name: str
    about: str = ""
    vocab_size: int = Field(8192, ge=2, le=MAX_INT)
    context: int = Field(256, ge=1, le=MAX_INT)
    dim: int = Field(ge=1, le=MAX_INT)
    depth: int = Field(ge=1, le=MAX_DEPTH)
    heads: int = Field(ge=1, le=MAX_INT)
    dropout: float = Field(0.0, ge=0, lt=1)
    positions: Any = RopeConfig()
    embedding: Any = TableConfig()
    norm: Any = RMSNormConfig()
    mixer: Any = AttentionConfig()
    feedforward: Any = SwigluConfig()
    block: Any = PreNormConfig()
    layers: tuple[LayerGroup, ...] = (LayerGroup(),)
    head: Any = LinearHeadConfig()
    objective: Any = NextTokenConfig()
    plugin: PluginSource | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _with_kinds(cls, raw: Any, validate: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        with kinds_for(raw if isinstance(raw, dict) else {}):
            return validate(raw)

    @field_validator("name")
    @classmethod
    def _a_file_name(cls, name: str) -> str:
        return check_name(name, "a recipe's name")

    @field_validator(*FAMILIES, mode="before")
    @classmethod
    def _declared(cls, raw: Any, info: Any) -> Part:
        if info.field_name == "head" and isinstance(raw, dict):
            raw = {"kind": "linear", **raw}  # version 0.1.0 had only this head and saved no kind
        return parse_config(FAMILIES[info.field_name], raw)

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        blocks = [parts["block"] for _, parts in self.groups()]  # one per group, as the depth can be large
        for block in blocks:
            block.check_compatible(blocks)
        return self

    def layer_parts(self) -> list[dict[str, Any]]:
        """The configs of block, mixer and feedforward of each layer."""
        return [parts for repeat, parts in self.groups() for _ in range(repeat)]

    def weight_owners(self) -> list[int]:
        """For each layer the index of the layer whose weights it uses: its own, or the first one of a shared group."""
        owners: list[int] = []
        for repeat, parts in self.groups():
            first = len(owners)
            owners += [first if parts["shared"] else first + index for index in range(repeat)]
        return owners

    def groups(self) -> list[tuple[int, dict[str, Any]]]:
        """Number of layers of each nonempty group, and their "block", "mixer", "feedforward" and "shared"."""
        rest = [group for group in self.layers if group.repeat == "rest"]
        repeats = [self.depth // 2 if group.repeat == "half" else group.repeat for group in self.layers]
        counted = sum(repeat for repeat in repeats if repeat != "rest")
        if len(rest) > 1:
            raise BadInput(f"{len(rest)} layer groups repeat 'rest'; one may, the others need a number")
        if counted > self.depth or (not rest and counted != self.depth):
            raise BadInput(
                f"the layer groups make {counted} layers and depth is {self.depth}; "
                f"make them agree, or let one group repeat 'rest'"
            )
        made = []
        for group, number in zip(self.layers, repeats, strict=True):
            repeat = self.depth - counted if number == "rest" else number
            parts: dict[str, Any] = {name: self._part_of(group, name) for name in ("block", "mixer", "feedforward")}
            parts["shared"] = group.shared
            made += [(repeat, parts)] * (repeat > 0)
        return made

    def _part_of(self, group: LayerGroup, family: str) -> Part:
        diff = getattr(group, family)
        part = getattr(self, family)
        if diff is None:
            return part
        with kinds_for({"plugin": self.plugin}):
            merged = merge({family: part.model_dump(exclude_none=True)}, {family: diff})  # another kind replaces all
            return parse_config(FAMILIES[family], merged[family])

    def layer_contexts(self, streams: RandomStreams | None = None) -> list[LayerContext]:
        """The LayerContext of each layer; with `streams` each part's initial weights are from a stream of its own."""
        return [self.layer_context(index, parts, streams) for index, parts in enumerate(self.layer_parts())]

    def layer_context(self, index: int, parts: dict[str, Any], streams: RandomStreams | None = None) -> LayerContext:
        """The LayerContext of layer `index` with the configs `parts`."""

        def build(family: str) -> Any:
            with streams.part(f"layer {index} {family}") if streams else nullcontext():
                return parts[family].build(layer)

        layer = LayerContext(
            dim=self.dim,
            heads=self.heads,
            context=self.context,
            depth=self.depth,
            index=index,
            dropout=self.dropout,
            vocab_size=self.vocab_size,
            norm_eps=self.norm.eps,
            norm=lambda width=self.dim: self.norm.build(replace(layer, dim=width)),
            rotation=self.positions.rotation,
            new_mixer=lambda: build("mixer"),
            new_feedforward=lambda: build("feedforward"),
            new_layer=lambda: build("block"),
            block=parts["block"],
        )
        return layer

    def to_dict(self) -> dict[str, Any]:
        """All keys, including defaults, as plain data."""
        plain = self.model_dump(mode="json", exclude=set(FAMILIES), exclude_none=True)
        parts = {name: getattr(self, name).model_dump(mode="json", exclude_none=True) for name in FAMILIES}
        return {
            name: parts.get(name, plain.get(name)) for name in type(self).model_fields if name in parts or name in plain
        }

    def to_yaml(self) -> str:
        """The recipe as YAML with all keys, which resolves to the same recipe."""
        return as_yaml(self.to_dict())


def plugin_module(path: str, digest: str) -> str:
    """Name of the Python module of the version with this sha256 of the plug-in file at this absolute path."""
    version = hashlib.sha256(os.fsencode(path) + digest.encode()).hexdigest()[:12]
    return f"{PLUGIN_PREFIX}{re.sub(r'[^0-9A-Za-z]', '_', Path(path).stem)}_{version}"


def kinds_for(raw: Mapping[str, Any]) -> AbstractContextManager[None]:
    """A block in which the kinds of the plug-in of a recipe's mapping are known; without one, those known before."""
    if raw.get("plugin") is None:
        return nullcontext()
    try:
        return plugin_kinds(PluginSource.model_validate(raw["plugin"]).module)
    except ValidationError:  # the recipe's validation refuses it
        return nullcontext()


def merge(base: dict[str, Any], diff: dict[str, Any]) -> dict[str, Any]:
    """`base` updated by `diff`: mappings are merged recursively, unless `kind` changes; other values are replaced."""
    merged = dict(base)
    for key, value in diff.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if key in FAMILIES:
                value, old = with_current_kind(FAMILIES[key], value), with_current_kind(FAMILIES[key], old)
            if value.get("kind", old.get("kind")) == old.get("kind"):
                value = merge(old, value)
        merged[key] = value
    return merged


def validated(raw: dict[str, Any]) -> Recipe:
    """The Recipe of a mapping; BadInput with one sentence for the first error."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"recipe {shown(raw.get('name', '?'))}: {first_fault(error, Recipe)}") from None


def current_keys(recipe: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe with the keys of this version; unchanged if it cannot be read here, as a plug-in's kinds."""
    try:
        return validated(recipe).to_dict()
    except BadInput:
        return recipe


def plugin_source(raw: Any, origin: Path) -> PluginSource:
    """The validated key `plugin` of a saved recipe in `origin`."""
    try:
        return PluginSource.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{origin}: plugin: {first_fault(error, PluginSource)}") from None
