"""The target of an audit: a model behind the calls of a Decoder, and what it can be asked."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from litmus.auditing.exact import Exact
from litmus.errors import message

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
NewCache = Callable[[int, int], Any]
"""Makes an empty cache for a number of rows and a capacity in tokens."""

Ability = Literal[
    "recipe",
    "weights",
    "embeddings",
    "loss",
    "padding mask",
    "packed documents",
    "cache",
    "rows of a cache",
    "reordered cache",
    "generate",
]
"""What a check may need of a target besides logits.

recipe: a Litmus recipe, which declares costs, references and an initialization. weights: copies whose weights may be
cast, perturbed and trained. embeddings: the module that embeds tokens. loss: `model.loss`. padding mask, packed
documents: a `Batch` with these. cache: `model.new_cache`. rows of a cache: rows of any lengths, padding on either side,
`reset_rows`. reordered cache: `cache.reorder(rows)`, which repeats and drops rows. generate: `target.generate`.
"""

MAX_LAYER_WEIGHTS = 2_000_000
"""Recipes with more weights in their layers are shrunk: fp64 takes about 0.2 ms per token at this size."""

LONG_CONTEXT = 1024
"""Models with at least this context are not tried beyond it; shorter ones show what happens there."""

LONGEST_TRIED = (2048, 4096)
"""Longest sequences of a quick and a full audit: beyond them one pass takes seconds."""

MAX_KEPT_LOGITS = 2_000_000

MAX_LOGITS = 16_000_000
"""Logits in memory at one time (128 MB in fp64): batches are split accordingly, so memory is bounded at any length."""

ROUNDING = 1e-9
"""Tolerance for two fp64 results that are equal by definition, in standard deviations of the logits.

Different orders of summation differ by about 1e-15 per operation and reach 1e-13 through tens of layers; a fault worth
the name changes logits by 1e-6 and more. 1e-9 lies between the two with room on both sides.
"""

COARSE_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Tolerance for a model that casts its activations to a coarser type although its weights are fp64."""


class AuditTarget(ABC):
    """A model under audit. Most checks use `model`: fp64, evaluation mode, on the CPU.

    An adapter gives `build_model`, whose result has the calls of a Decoder: `model(tokens)` is logits (B, T, V), and as
    far as `missing` does not name them, `model(Batch)`, `model(tokens, cache)`, `model.new_cache(rows, capacity)`,
    `model.loss(tokens, targets)` and `model.embedding`.

    name, note: of the report. vocab_size, context: tokens that the model knows, and how many it takes at once. missing:
    why the target lacks an ability, as a clause. live: weights are the user's own, not built from a seed.
    """

    live = True
    trains = True
    """Whether checks try a copy after training on one batch as well."""

    def __init__(self, name: str, *, vocab_size: int, context: int, quick: bool, note: str = "") -> None:
        self.name, self.note = name, note
        self.vocab_size, self.context = vocab_size, context
        self.quick = quick
        self.missing: dict[Ability, str] = {}
        self._lifts_casts = False
        self._results: dict[Any, Any] = {}

    def lacks(self, ability: Ability) -> str:
        """Why the target cannot be asked for this; "" if it can."""
        return self.missing.get(ability, "")

    @abstractmethod
    def build_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
        """A model in evaluation mode, without dropout: newly built from `seed`, or a copy of the live one."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of layers."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of elements of the residual stream."""

    @property
    @abstractmethod
    def layer_weights(self) -> int:
        """Number of weights in the layers of `model`."""

    @property
    def distinct_tokens(self) -> int:
        """The number of tokens that `tokens` draws from."""
        return self.vocab_size

    @property
    def ignores_order(self) -> bool:
        """Whether the model cannot see the order of tokens, by its description."""
        return False

    @cached_property
    def model(self) -> Any:
        """The model with every weight perturbed: parameters that start at exactly 0 or 1 (gates, norms) hide faults."""
        return perturbed(self.build_model())

    @cached_property
    def unperturbed(self) -> Any:
        """The model with its own weights."""
        return self.build_model()

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """The result of `compute()`, called once per key: what several checks use."""
        if key not in self._results:
            self._results[key] = compute()
        result: T = self._results[key]
        return result

    @cached_property
    def own_size(self) -> tuple[Any, str]:
        """A perturbed model of the width and vocabulary that were asked for, if `model` was shrunk, else None.

        With it comes a note on its sizes, or the reason why there is none.
        """
        return None, ""

    @cached_property
    def rounding(self) -> float:
        """Tolerance for logits that are equal by definition, in standard deviations of the logits."""
        tokens = self.tokens(1, min(9, self.context))
        return self.rounding_of(lambda model: model(tokens))

    @property
    def decoding_rounding(self) -> float:
        """The same for logits of the full pass and of decoding, which may be by another formula."""
        return self.rounding

    @cached_property
    def loss_rounding(self) -> float:
        """The same for training losses, which may be computed in fp32 in any model."""
        tokens = self.tokens(1, min(9, self.context))
        return self.rounding_of(lambda model: model.train().loss(tokens, tokens).total)

    def rounding_of(self, use: Callable[[Any], object]) -> float:
        """Rounding of a result; a model that casts inside is exact within `exact`, if it runs without its casts."""
        dtype = coarsest_dtype(self.model, use)
        if dtype == torch.float64:
            return ROUNDING
        try:
            with Exact():
                lifted = coarsest_dtype(self.model, use)
        except Exception:  # it needs its own types
            lifted = dtype
        if lifted != torch.float64:
            return COARSE_ROUNDING.get(dtype, ROUNDING)
        self._lifts_casts = True
        return ROUNDING

    @property
    def lifts_casts(self) -> bool:
        """Whether the model casts its activations to a coarser type, and runs without these casts as well."""
        _ = self.rounding, "" if self.lacks("loss") else self.loss_rounding
        return self._lifts_casts

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """In this block a model that casts its activations computes in fp64 all the same, where it can."""
        with Exact() if self.lifts_casts else contextlib.nullcontext():
            yield

    @cached_property
    def longest(self) -> int:
        """Length of the longest sequence to try: twice the context if the model accepts that, else the context."""
        return self.context if self.context >= LONG_CONTEXT or self.refused else 2 * self.context

    @cached_property
    def refused(self) -> str:
        """Why no text longer than the context is tried, with what the model says; "" if it takes one."""
        return self.beyond(self.context + 1)

    def beyond(self, length: int) -> str:
        """That texts longer than the context are not checked, if the model refuses one of `length` tokens; else ""."""
        refusal = self.refusal(length)
        return refusal and f"texts of more than {self.context:,} tokens: the model refuses {length:,} ({refusal})"

    @abstractmethod
    def refusal(self, length: int) -> str:
        """What the model says (an exception in one line) when it is given `length` tokens; "" if it takes them."""

    def other_caches(self) -> Mapping[str, NewCache]:
        """Kinds of cache besides that of `model.new_cache` that the model says it takes, by name."""
        return {}

    def generate(self, prompts: Sequence[Tensor], count: int) -> list[Tensor]:
        """`count` tokens after each prompt (T,), greedily, by the model's own way of generation."""
        raise NotImplementedError(self.lacks("generate"))

    @cached_property
    def reach(self) -> int:
        """Length of the longest sequence that the audit takes its time for: the context, if that is not too long."""
        return min(self.longest, max(LONG_CONTEXT // 4, round(self.pick(*LONGEST_TRIED) * self.affordable)))

    @property
    def affordable(self) -> float:
        """Share of the cases that there is time for: less than 1 for a model with many weights."""
        return min(1.0, MAX_LAYER_WEIGHTS / max(1, self.layer_weights))

    def text(self, length: int) -> Tensor:
        """The first tokens (1, length) of one random text, whose logits several checks use."""
        return self.once("text", lambda: self.tokens(1, self.longest, seed=2))[:, :length]

    def text_logits(self, length: int) -> Tensor:
        """Logits (1, T, V) of `model` for that text; computed once, if they are not very large."""
        if length * self.vocab_size > MAX_KEPT_LOGITS:
            return self.logits(self.model, self.text(length))
        return self.once(("text logits", length), lambda: self.logits(self.model, self.text(length)))

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
        return max(3, round(self.pick(quick, full) * self.affordable))

    def tokens(self, batch: int, length: int, seed: int = 0) -> Tensor:
        """Random tokens (batch, length), a function of the arguments."""
        return torch.randint(self.vocab_size, (batch, length), generator=generator(seed, batch, length))

    def other_tokens(self, tokens: Tensor, seed: int = 1) -> Tensor:
        """Random tokens of the same shape that differ from `tokens` at every position."""
        step = torch.randint(1, self.vocab_size, tokens.shape, generator=generator(seed, *tokens.shape))
        return (tokens + step) % self.vocab_size

    def few_tokens(self, numbers: Tensor) -> Tensor:
        """One token for each of the `numbers`: tokens of small numbers, as far as the vocabulary goes."""
        return numbers % self.vocab_size

    def padding(self, batch: int, length: int, seed: int = 0) -> Tensor:
        """Tokens (batch, length) to pad with: any, because they must have no effect."""
        return self.tokens(batch, length, seed)

    def logits(self, model: Any, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) without gradient, in batches of at most `MAX_LOGITS`."""
        rows = max(1, MAX_LOGITS // (tokens.shape[1] * self.vocab_size))
        with torch.no_grad():
            return torch.cat([model(part) for part in tokens.split(rows)])


def said(error: Exception) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {' '.join(message(error).split())[:200]}"


def generator(*numbers: int) -> torch.Generator:
    """A random generator seeded by the given numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def perturbed(model: M, seed: int = 0) -> M:
    """Add noise to every parameter in place: N(0, 1/inputs) to matrices, N(0, 0.1²) to vectors."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.is_floating_point()):
            std = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(std * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype))
    return model


def without_dropout(model: M) -> M:
    """Set every dropout of the model to 0 in place: its noise is larger than any tolerance."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return model


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


def coarsest_dtype(model: Any, use: Callable[[Any], object]) -> torch.dtype:
    """The coarsest type of any activation in the forward pass of an fp64 model."""
    model = copy.deepcopy(model).requires_grad_(False)
    model.embedding.register_forward_hook(lambda _, __, vectors: vectors.detach().requires_grad_())
    with torch.enable_grad(), _DtypeRecorder() as watch:  # whoever needs it first may have no use for gradients
        use(model)
    return watch.coarsest
