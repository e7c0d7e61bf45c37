"""The target of an audit: a recipe, shrunk to a size that takes seconds, or a live model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from litmus.errors import BadInput
from litmus.model import Decoder, Recipe
from litmus.model.recipe import FAMILIES

T = TypeVar("T")

MAX_LAYER_WEIGHTS = 2_000_000
"""Recipes with more weights in their layers are shrunk: fp64 takes about 0.2 ms per token at this size."""

MAX_VOCABULARY = 1024
MIN_HEAD_DIM = 4
LONG_CONTEXT = 1024
"""Models with at least this context are not tried beyond it; shorter ones show what happens there."""

MAX_LOGITS = 16_000_000
"""Logits in memory at one time (128 MB in fp64): batches are split accordingly, so memory is bounded at any length."""

ROUNDING = 1e-9
"""Tolerance for two fp64 results that are equal by definition, in standard deviations of the logits.

Different orders of summation differ by about 1e-15 per operation and reach 1e-13 through tens of layers; a fault worth
the name changes logits by 1e-6 and more. 1e-9 lies between the two with room on both sides.
"""

COARSE_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Tolerance for a model that casts its activations to a coarser type although its weights are fp64."""


class AuditTarget:
    """One recipe or model under audit. Most checks use `model`: fp64, evaluation mode, on the CPU."""

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
        """The model with every weight perturbed: parameters that start at exactly 0 or 1 (gates, norms) hide faults."""
        return perturbed(self.build_model())

    @cached_property
    def unperturbed(self) -> Decoder:
        """The model with its own weights."""
        return self.build_model()

    @cached_property
    def rounding(self) -> float:
        """Tolerance for logits that are equal by definition, in standard deviations of the logits."""
        tokens = self.tokens(1, min(9, self.longest))
        return COARSE_ROUNDING.get(_coarsest_dtype(self.model, lambda model: model(tokens)), ROUNDING)

    @cached_property
    def loss_rounding(self) -> float:
        """The same for training losses, which may be computed in fp32 in any model."""
        tokens = self.tokens(1, min(9, self.longest))
        dtype = _coarsest_dtype(self.model, lambda model: model.train().loss(tokens, tokens).total)
        return COARSE_ROUNDING.get(dtype, ROUNDING)

    @cached_property
    def longest(self) -> int:
        """Length of the longest sequence to try: twice the context if the model accepts that, else the context."""
        context = self.recipe.context
        if context >= LONG_CONTEXT:
            return context
        try:
            with torch.no_grad():
                self.model.hidden(self.tokens(1, context + 1))
        except BadInput:
            return context
        return 2 * context

    def lengths(self, wanted: list[int]) -> list[int]:
        """The `wanted` lengths that do not exceed `longest`."""
        return [length for length in wanted if length <= self.longest]

    def length(self, wanted: int) -> int:
        """`wanted`, at most `longest`."""
        return min(wanted, self.longest)

    def pick(self, quick: T, full: T) -> T:
        """`quick` in a quick audit, `full` in a full one."""
        return quick if self.quick else full

    def cases(self, quick: int, full: int) -> int:
        """Number of cases: fewer for a live model with many weights, but at least three."""
        layer_weights = sum(parameter.numel() for parameter in self.model.layers.parameters())
        return max(3, round(self.pick(quick, full) * min(1.0, MAX_LAYER_WEIGHTS / max(1, layer_weights))))

    def tokens(self, batch: int, length: int, seed: int = 0) -> Tensor:
        """Random tokens (batch, length), a function of the arguments."""
        return torch.randint(self.recipe.vocab_size, (batch, length), generator=generator(seed, batch, length))

    def other_tokens(self, tokens: Tensor, seed: int = 1) -> Tensor:
        """Random tokens of the same shape that differ from `tokens` at every position."""
        vocabulary = self.recipe.vocab_size
        step = torch.randint(1, vocabulary, tokens.shape, generator=generator(seed, *tokens.shape))
        return (tokens + step) % vocabulary

    def logits(self, model: Decoder, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) without gradient, in batches of at most `MAX_LOGITS`."""
        rows = max(1, MAX_LOGITS // (tokens.shape[1] * self.recipe.vocab_size))
        with torch.no_grad():
            return torch.cat([model(part) for part in tokens.split(rows)])


def generator(*numbers: int) -> torch.Generator:
    """A random generator seeded by the given numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def perturbed(model: Decoder, seed: int = 0) -> Decoder:
    """Add noise to every parameter in place: N(0, 1/inputs) to matrices, N(0, 0.1²) to vectors."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(std * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype))
    return model


def shrunk(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with a smaller width and vocabulary, to audit it in seconds, and a note on what was changed.

    Depth, layer groups, head counts and context stay: a fault may be in any layer or past any block edge, but not in
    the ninth dimension of a head only. Dropout is set to 0, since its noise is larger than any tolerance.
    """
    raw = {**recipe.to_dict(), "dropout": 0.0, "vocab_size": min(recipe.vocab_size, MAX_VOCABULARY)}
    slim = Recipe.model_validate(raw)
    for factor in _width_divisors(recipe):
        if layer_weights(slim) <= MAX_LAYER_WEIGHTS:
            break
        try:
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
        with torch.device("meta"):
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
            declared = family.kinds[part["kind"]] if "kind" in part else None
            size_keys = (
                declared.size_keys if declared else {key for kind in family.kinds.values() for key in kind.size_keys}
            )
            widths = {key for key in size_keys if not key.endswith("heads") and isinstance(part.get(key), int)}
            divided[name] = {key: -(-value // factor) if key in widths else value for key, value in part.items()}
    if "layers" in raw:
        divided["layers"] = [_divided(group, factor) for group in raw["layers"]]
    return divided


class _DtypeRecorder(TorchFunctionMode):
    """Records the coarsest floating-point type among results that depend on the token embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = torch.float64

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.requires_grad and result.is_floating_point():
            self.coarsest = min(self.coarsest, result.dtype, key=lambda dtype: -torch.finfo(dtype).eps)
        return result


def _coarsest_dtype(model: Decoder, use: Callable[[Decoder], object]) -> torch.dtype:
    """The coarsest type of any activation in the forward pass of an fp64 model."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.embedding.register_forward_hook(lambda _, __, vectors: vectors.detach().requires_grad_())
    with _DtypeRecorder() as watch:
        use(model)
    return watch.coarsest
