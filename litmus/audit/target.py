"""What is audited: a recipe (at a width that can be audited in seconds) or a live model, ready for the checks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from litmus.audit.check import ROUNDING
from litmus.errors import BadInput
from litmus.model import Decoder, Recipe
from litmus.model.recipe import FAMILIES

T = TypeVar("T")

WEIGHTS = 2_000_000
"""A recipe with more weights than this in its layers is narrowed: fp64 takes about 0.2 ms per token at this size."""

VOCABULARY = 1024
NARROWEST_HEAD = 4
LONG = 1024
"""Contexts from here on are not exceeded, since nothing would be learned that shorter ones do not tell."""

NUMBERS = 16_000_000
"""Logits held at one time (128 MB in fp64): batches are cut to this, which bounds memory at any length."""

COARSER = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""The tolerance for a model that casts its activations to a coarser type even when it is given fp64."""


class AuditTarget:
    """One recipe or model under audit. `model` is what most checks look at: fp64, evaluation mode, on the CPU."""

    def __init__(self, source: Recipe | Decoder, *, quick: bool) -> None:
        self.quick = quick
        self.live = None if isinstance(source, Recipe) else source
        self.given = source if isinstance(source, Recipe) else source.recipe
        self.recipe, self.note = (self.given, "") if self.live is not None else shrunk(self.given)
        self.name = self.given.name

    def build_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Decoder:
        """A model in evaluation mode, without dropout: newly built from `seed`, or a copy of the live one."""
        if self.live is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = Decoder(self.recipe)
        else:
            model = copy.deepcopy(self.live).cpu()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model.to(dtype).eval().requires_grad_(True)

    @cached_property
    def model(self) -> Decoder:
        """The model with its weights perturbed: what starts at exactly 0 or 1 would hide what it does once trained."""
        return perturbed(self.build_model())

    @cached_property
    def unperturbed(self) -> Decoder:
        """The model with its weights as they are."""
        return self.build_model()

    @cached_property
    def rounding(self) -> float:
        """How far results may lie apart that are equal by definition, in standard deviations of the logits."""
        tokens = self.tokens(1, min(9, self.longest))
        return COARSER.get(_coarsest(self.model, lambda model: model(tokens)), ROUNDING)

    @cached_property
    def loss_rounding(self) -> float:
        """The same for training losses, which may be computed in fp32 whatever the model computes in."""
        tokens = self.tokens(1, min(9, self.longest))
        return COARSER.get(_coarsest(self.model, lambda model: model.train().loss(tokens, tokens).total), ROUNDING)

    @cached_property
    def longest(self) -> int:
        """The longest sequence to try: twice the context where the model goes beyond it, else the context."""
        context = self.recipe.context
        if context >= LONG:
            return context
        try:
            with torch.no_grad():
                self.model.hidden(self.tokens(1, context + 1))
        except BadInput:
            return context
        return 2 * context

    def lengths(self, wanted: list[int]) -> list[int]:
        """Those of the wanted lengths that the model can take."""
        return [length for length in wanted if length <= self.longest]

    def length(self, wanted: int) -> int:
        """`wanted`, or the longest that the model can take."""
        return min(wanted, self.longest)

    def pick(self, quick: T, full: T) -> T:
        """The first in a quick audit, the second in a full one."""
        return quick if self.quick else full

    def cases(self, quick: int, full: int) -> int:
        """How many cases to try: fewer for a live model of many weights, but never fewer than three."""
        weights = sum(parameter.numel() for parameter in self.model.layers.parameters())
        return max(3, round(self.pick(quick, full) * min(1.0, WEIGHTS / max(1, weights))))

    def tokens(self, batch: int, length: int, seed: int = 0) -> Tensor:
        """Random tokens (batch, length), the same for the same arguments."""
        return torch.randint(self.recipe.vocab_size, (batch, length), generator=generator(seed, batch, length))

    def others(self, tokens: Tensor, seed: int = 1) -> Tensor:
        """Random tokens of the same shape that differ from `tokens` everywhere."""
        vocabulary = self.recipe.vocab_size
        step = torch.randint(1, vocabulary, tokens.shape, generator=generator(seed, *tokens.shape))
        return (tokens + step) % vocabulary

    def logits(self, model: Decoder, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) without gradient, computed for as many rows at a time as `NUMBERS` allows."""
        rows = max(1, NUMBERS // (tokens.shape[1] * self.recipe.vocab_size))
        with torch.no_grad():
            return torch.cat([model(part) for part in tokens.split(rows)])


def generator(*numbers: int) -> torch.Generator:
    """A source of random numbers that is the same for the same numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def perturbed(model: Decoder, seed: int = 0) -> Decoder:
    """Move every parameter by a random amount: matrices by N(0, 1/inputs), vectors by N(0, 0.1²); in place."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(std * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype))
    return model


def shrunk(recipe: Recipe) -> tuple[Recipe, str]:
    """A recipe with the same layers, but few enough weights and tokens to audit in seconds; and what was changed.

    Depth, layer groups, head counts and context stay: a fault may sit in any layer or past any block edge, but not
    in the ninth number of a head. Dropout goes: it hides everything else.
    """
    raw = {**recipe.to_dict(), "dropout": 0.0, "vocab_size": min(recipe.vocab_size, VOCABULARY)}
    slim = Recipe.model_validate(raw)
    for factor in _factors(recipe):
        if weights(slim) <= WEIGHTS:
            break
        try:
            candidate = Recipe.model_validate(_divided(raw, factor))
            weights(candidate)
        except BadInput:
            continue  # some part cannot be that narrow
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


def weights(recipe: Recipe) -> int:
    """How many weights the layers of a recipe have."""
    return sum(parameter.numel() for parameter in meta_model(recipe).layers.parameters())


def meta_model(recipe: Recipe) -> Decoder:
    """The model of a recipe without its numbers; with them, where a plug-in cannot be built without."""
    try:
        with torch.device("meta"):
            return Decoder(recipe)
    except BadInput:
        raise
    except Exception:  # whatever a plug-in met without numbers; what is wrong with numbers too is raised below
        with torch.random.fork_rng(devices=[]):
            return Decoder(recipe)


def _factors(recipe: Recipe) -> Iterator[int]:
    """By what the width may be divided so that heads keep an even, not too small width."""
    head = recipe.dim // recipe.heads
    for factor in range(2, head // NARROWEST_HEAD + 1):
        if head % factor == 0 and head // factor % 2 == 0 and recipe.dim % recipe.heads == 0:
            yield factor


def _divided(raw: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """A recipe's mapping with dim and all keys that belong to a size divided by `factor`, head counts excepted."""
    divided = {**raw, "dim": raw["dim"] // factor} if "dim" in raw else dict(raw)
    for name, family in FAMILIES.items():
        part = raw.get(name)
        if isinstance(part, dict):
            declared = family.kinds[part["kind"]] if "kind" in part else None
            size_keys = (
                declared.size_keys if declared else {key for kind in family.kinds.values() for key in kind.size_keys}
            )
            widths = {key for key in size_keys if not key.endswith("heads") and isinstance(part.get(key), int)}
            divided[name] = {key: -(-value // factor) if key in widths else value for key, value in part.items()}
    if "layers" in raw:
        divided["layers"] = [_divided(group, factor) for group in raw["layers"]]
    return divided


class _Watch(TorchFunctionMode):
    """Notes the coarsest floating type among results that depend on the tokens' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = torch.float64

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.requires_grad and result.is_floating_point():
            self.coarsest = min(self.coarsest, result.dtype, key=lambda dtype: -torch.finfo(dtype).eps)
        return result


def _coarsest(model: Decoder, use: Callable[[Decoder], object]) -> torch.dtype:
    """The coarsest type in which the model, given in fp64, computes on its activations."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.embedding.register_forward_hook(lambda _, __, vectors: vectors.detach().requires_grad_())
    with _Watch() as watch:
        use(model)
    return watch.coarsest
