"""A recipe, shrunk to a size that takes seconds, or a live Decoder."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from litmus.auditing.target import AuditTarget, perturbed, said, without_dropout
from litmus.errors import BadInput
from litmus.model import Decoder, Recipe
from litmus.model.recipe import FAMILIES, kinds_for
from litmus.nn.core.registry import known_kinds
from litmus.runtime.device import seeded
from litmus.runtime.meta import meta_device

MAX_VOCABULARY = 256
MAX_SHRUNK_WEIGHTS = (100_000, 300_000)
"""Recipes with more weights in their layers (quick, full) are shrunk: fp64 then takes about 0.05 ms per token."""

MAX_LIVE_WEIGHTS = 4_000_000
"""Live models with more weights in their layers are audited with their first layers, and once with all of them."""

LAYERS_KEPT = 2
MAX_LIVE_OWN_SIZE = (300_000_000, 2_000_000_000)
"""Live models with more parameters (quick, full) are not audited with all of their layers."""

MIN_HEAD_DIM = 4

MAX_OWN_SIZE = (12_000_000, 60_000_000)
"""Models of the given size with more parameters (quick, full) are built with two layers for the tests at that size."""


class DecoderTarget(AuditTarget):
    """A recipe or a Decoder under audit. It has every ability but that of `generate`, which is tested elsewhere.

    given: the recipe as the user stated it. recipe: the one of the models that are audited.
    """

    def __init__(self, source: Recipe | Decoder, *, quick: bool) -> None:
        self.own = None if isinstance(source, Recipe) else source
        self.live = self.own is not None
        self.given = source if isinstance(source, Recipe) else source.recipe
        self.whole = self.own
        if self.own is None:
            self.recipe, note = shrunk(self.given, MAX_SHRUNK_WEIGHTS[not quick])
        else:
            self.own, note = first_layers(self.own)
            self.recipe = self.own.recipe
        super().__init__(
            self.given.name,
            vocab_size=self.recipe.vocab_size,
            context=self.recipe.context,
            quick=quick,
            note=note,
        )
        self.missing = {"generate": "the generation engine is no part of the model"}

    def build_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Decoder:
        if self.own is None:
            with seeded(seed):
                model = Decoder(self.recipe)
        else:
            model = copy.deepcopy(self.own).cpu()
        return without_dropout(model).to(dtype).eval().requires_grad_(True)

    @cached_property
    def own_size(self) -> tuple[Decoder | None, str]:
        if self.whole is not None and self.whole is not self.own:
            parameters, most = sum(p.numel() for p in self.whole.parameters()), self.pick(*MAX_LIVE_OWN_SIZE)
            if parameters > most:
                return None, f"not with all layers: {parameters:,} parameters, and there is time for {most:,}"
            whole = without_dropout(copy.deepcopy(self.whole).cpu())
            return perturbed(whole.to(torch.float64).eval()), "with all layers and tokens"
        if self.live or (self.given.dim, self.given.vocab_size) == (self.recipe.dim, self.recipe.vocab_size):
            return None, ""
        most, parameters = self.pick(*MAX_OWN_SIZE), 0
        for depth in (self.given.depth, 2):
            try:
                recipe = Recipe.model_validate({**self.given.to_dict(), "dropout": 0.0, "depth": depth})
                parameters = sum(parameter.numel() for parameter in meta_model(recipe).parameters())
            except BadInput:  # its layer groups need their own depth
                continue
            if parameters <= most:
                with seeded(0):
                    model = Decoder(recipe)
                return perturbed(model.to(torch.float64).eval()), f"at width {recipe.dim}"
        return None, f"not at its own width: {parameters:,} parameters, and there is time for {most:,}"

    @property
    def depth(self) -> int:
        return self.recipe.depth

    @property
    def width(self) -> int:
        return self.recipe.dim

    @property
    def layer_weights(self) -> int:
        return sum(parameter.numel() for parameter in self.model.layers.parameters())

    @property
    def ignores_order(self) -> bool:
        return self.recipe.positions.kind == "none" and self.recipe.depth == 1

    def refusal(self, length: int) -> str:
        try:
            with torch.no_grad():
                self.model.hidden(self.tokens(1, length))
        except Exception as error:  # a plug-in's table or filter may end at the context
            return said(error)
        return ""


def shrunk(recipe: Recipe, most: int) -> tuple[Recipe, str]:
    """The recipe with a smaller width and vocabulary, to audit it in seconds, and a note on what was changed.

    most: weights of all layers, which a narrower model shall not exceed, if its parts can be that narrow.

    Depth, layer groups, head counts and context stay: a fault may be in any layer or past any block edge, but not in
    the ninth dimension of a head only. Dropout is set to 0, since its noise is larger than any tolerance.
    """
    raw = {**recipe.to_dict(), "dropout": 0.0, "vocab_size": min(recipe.vocab_size, MAX_VOCABULARY)}
    slim = Recipe.model_validate(raw)
    for factor in _width_divisors(recipe):
        if layer_weights(slim) <= most:
            break
        try:
            with kinds_for(raw):
                candidate = Recipe.model_validate(_divided(raw, factor))
            layer_weights(candidate)
        except BadInput:
            continue  # a part cannot be that narrow
        slim = candidate
    changes = [
        f"{name} {then:,} -> {now:,}"
        for name, then, now in (
            ("width", recipe.dim, slim.dim),
            ("vocabulary", recipe.vocab_size, slim.vocab_size),
        )
        if then != now
    ]
    return slim, f"audited with {' and '.join(changes)}, all layers and heads kept" if changes else ""


def first_layers(model: Decoder) -> tuple[Decoder, str]:
    """A large model with its first layers and tokens only, and a note on that; a small one as it is.

    Its weights are the model's. A model whose layers or tables cannot be cut in this way stays whole.
    """
    recipe, state = model.recipe, model.state_dict()
    if sum(parameter.numel() for parameter in model.layers.parameters()) <= MAX_LIVE_WEIGHTS:
        return model, ""
    tokens = min(recipe.vocab_size, MAX_VOCABULARY)
    for depth in range(LAYERS_KEPT, recipe.depth):
        raw = {**recipe.to_dict(), "depth": depth, "vocab_size": tokens}
        with contextlib.suppress(BadInput, KeyError), kinds_for(raw), seeded(0):
            cut = Decoder(Recipe.model_validate(raw)).to(next(model.parameters()).dtype).train(model.training)
            kept = _same_layers(cut, model)
            if len(set(map(_shapes, model.layers))) > len({_shapes(model.layers[layer]) for layer in kept.values()}):
                continue  # a layer of each kind is needed
            loaded = {
                name: _cut_rows(state[_source_name(name, kept)], value) for name, value in cut.state_dict().items()
            }
            cut.load_state_dict(loaded)
            changes = f"vocabulary {recipe.vocab_size:,} -> {tokens:,}" if tokens < recipe.vocab_size else ""
            with_layers = f"layers {', '.join(str(layer) for layer in kept.values())} of {recipe.depth}"
            note = f"audited with {with_layers}{' and ' if changes else ''}{changes}, and once whole"
            return cut, note
    return model, ""


def _shapes(layer: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, value.shape) for name, value in layer.state_dict().items())


def _same_layers(cut: Decoder, model: Decoder) -> dict[int, int]:
    """For each layer of `cut` the first one of `model`, after that of the layer before, with the same weights."""
    kept: dict[int, int] = {}
    for layer, made in enumerate(cut.layers):
        after = range(max(kept.values(), default=-1) + 1, len(model.layers))
        found = next((number for number in after if _shapes(model.layers[number]) == _shapes(made)), None)
        if found is None:
            raise BadInput("no such layers")
        kept[layer] = found
    return kept


def _source_name(name: str, kept: Mapping[int, int]) -> str:
    parts = name.split(".")
    return ".".join(["layers", str(kept[int(parts[1])]), *parts[2:]]) if parts[0] == "layers" else name


def _cut_rows(value: Tensor, like: Tensor) -> Tensor:
    """The first rows of a table over the vocabulary; BadInput if shapes differ otherwise."""
    if value.shape == like.shape:
        return value
    if value.ndim != like.ndim or value.shape[1:] != like.shape[1:] or len(value) < len(like):
        raise BadInput("not a table of tokens")
    return value[: len(like)]


def layer_weights(recipe: Recipe) -> int:
    """Number of weights in the layers of a recipe."""
    return sum(parameter.numel() for parameter in meta_model(recipe).layers.parameters())


def meta_model(recipe: Recipe) -> Decoder:
    """The model of a recipe on the meta device; with real tensors if a plug-in cannot be built there."""
    try:
        with meta_device():
            return Decoder(recipe)
    except BadInput:
        raise
    except Exception:  # the plug-in may need real tensors; errors with real tensors are raised below
        with torch.random.fork_rng(devices=[]):
            return Decoder(recipe)


def _width_divisors(recipe: Recipe) -> Iterator[int]:
    """Divisors of the width that leave an even head width of at least `MIN_HEAD_DIM`."""
    head = recipe.dim // recipe.heads
    for factor in range(2, head // MIN_HEAD_DIM + 1):
        if head % factor == 0 and head // factor % 2 == 0 and recipe.dim % recipe.heads == 0:
            yield factor


def _divided(raw: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """A recipe's mapping with dim and all size keys except head counts divided by `factor`."""
    divided = {**raw, "dim": raw["dim"] // factor} if "dim" in raw else dict(raw)
    for name, family in FAMILIES.items():
        part = raw.get(name)
        if isinstance(part, dict):
            known = known_kinds(family)
            declared = known[part["kind"]] if "kind" in part else None
            size_keys = declared.size_keys if declared else {key for kind in known.values() for key in kind.size_keys}
            widths = {key for key in size_keys if not key.endswith("heads") and isinstance(part.get(key), int)}
            divided[name] = {key: -(-value // factor) if key in widths else value for key, value in part.items()}
    if "layers" in raw:
        divided["layers"] = [_divided(group, factor) for group in raw["layers"]]
    return divided
