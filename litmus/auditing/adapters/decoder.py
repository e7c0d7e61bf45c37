"""A recipe, shrunk to a size that takes seconds, or a live Decoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch

from litmus.auditing.target import AuditTarget, perturbed, said, without_dropout
from litmus.errors import BadInput
from litmus.model import Decoder, Recipe
from litmus.model.recipe import FAMILIES, kinds_for
from litmus.nn.core.registry import known_kinds
from litmus.runtime.device import seeded
from litmus.runtime.meta import meta_device

MAX_VOCABULARY = 256
MAX_SHRUNK_WEIGHTS = 300_000
"""Recipes with more weights in their layers are shrunk: fp64 then takes about 0.05 ms per token."""

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
        self.recipe, note = (self.given, "") if self.live else shrunk(self.given)
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


def shrunk(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with a smaller width and vocabulary, to audit it in seconds, and a note on what was changed.

    Depth, layer groups, head counts and context stay: a fault may be in any layer or past any block edge, but not in
    the ninth dimension of a head only. Dropout is set to 0, since its noise is larger than any tolerance.
    """
    raw = {**recipe.to_dict(), "dropout": 0.0, "vocab_size": min(recipe.vocab_size, MAX_VOCABULARY)}
    slim = Recipe.model_validate(raw)
    for factor in _width_divisors(recipe):
        if layer_weights(slim) <= MAX_SHRUNK_WEIGHTS:
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
