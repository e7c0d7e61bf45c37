"""Any `nn.Module` or function that maps tokens to logits, behind the calls of a Decoder.

It may return logits alone, a tuple, a mapping or an object with logits, `logits, loss = model(idx, targets)` as nanoGPT
does, and a cache that is passed from call to call.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.auditing.adapters.calls import (
    IGNORED_VALUES,
    LABELS,
    CallCache,
    Calls,
    cache_of,
    logits_of,
    loss_of,
    token_embedding,
)
from litmus.auditing.exact import Exact
from litmus.auditing.target import (
    COARSE_ROUNDING,
    ROUNDING,
    AuditTarget,
    coarsest_dtype,
    perturbed,
    said,
    without_dropout,
)
from litmus.errors import BadInput
from litmus.model import Loss
from litmus.nn import Batch
from litmus.nn.core.batch import IGNORED

CONTEXT_NAMES = ("block_size", "context_length", "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
VOCABULARY_NAMES = ("vocab_size", "n_vocab", "padded_vocab_size")
UNKNOWN_CONTEXT = 256
"""Context of a model that states none and takes this many tokens."""

LONGEST_TABLE = 2048
"""Contexts that are tried: whether a table of positions ends there. No check takes more tokens than this."""

TABLE_ROUNDING = 1e-6
"""Standard deviations of the logits: rounding of a table of decays to fp32 over a text; faults of a cache are above."""

MAX_CAST_WEIGHTS, MAX_FP32_WEIGHTS = 50_000_000, 2_000_000_000
"""Models with more weights are audited with their own weights only, as fp64 copies are slow: in fp32 if the weights
have 16 bits, which fp32 holds exactly and a CPU computes several times as fast; beyond the second number as they
are."""


class ForeignModel(nn.Module):
    """A module or function with the calls of a Decoder (see `AuditTarget`)."""

    def __init__(self, module: Callable[..., Any], calls: Calls, vocab_size: int, embedding: str = "") -> None:
        super().__init__()
        self.module = module  # a submodule if it is an nn.Module
        self.calls, self.vocab_size = calls, vocab_size
        self.embedding_name = embedding
        self.exact = False

    @property
    def embedding(self) -> nn.Module:
        """The module that maps tokens to vectors."""
        return self.get_submodule(f"module.{self.embedding_name}")

    def forward(self, tokens: Tensor | Batch, cache: CallCache | None = None) -> Any:
        """Logits (B, T, V) of tokens (B, T), without those that only pad the vocabulary."""
        batch = Batch.of(tokens)
        with self.exactly():
            output = self.module(batch.tokens, **self.options(batch, cache))
        if cache is not None:
            cache.past = cache_of(output)
        logits = logits_of(output, batch.tokens)
        return logits[..., : self.vocab_size] if isinstance(logits, Tensor) else logits

    def exactly(self) -> contextlib.AbstractContextManager[object]:
        """Within this block an fp64 model stays in fp64, whatever it casts to."""
        return Exact() if self.exact else contextlib.nullcontext()

    def options(self, batch: Batch, cache: CallCache | None) -> dict[str, Any]:
        """The arguments of the forward pass besides the tokens."""
        options: dict[str, Any] = {}
        mask = batch.padding_mask if cache is None else cache.extended(batch)
        if mask is not None:
            options[self.calls.padding_mask] = mask.long()
        if self.calls.logits_need_targets:  # the tokens themselves: whoever uses them for logits uses the future
            options[self.calls.targets] = torch.cat((batch.tokens[:, 1:], batch.tokens[:, -1:]), 1)
        if cache is not None:
            options |= {} if cache.past is None else {self.calls.cache: cache.past}
        if self.calls.use_cache:
            options["use_cache"] = cache is not None
        return options

    def loss(self, tokens: Tensor, targets: Tensor) -> Loss:
        """The module's own loss of targets (B, T), each of which follows the token at its position."""
        if self.calls.shifts:  # one token more makes room for the last target
            targets = torch.cat((torch.full_like(targets[:, :1], IGNORED), targets), 1)
            tokens = torch.cat((tokens, tokens[:, -1:]), 1)
        ignored = self.calls.ignored
        given = targets if ignored is None else targets.masked_fill(targets == IGNORED, ignored)
        with self.exactly():
            return Loss(loss_of(self.module(tokens, **{self.calls.targets: given})), {})

    def loss_of_text(self, tokens: Tensor) -> Tensor:
        """The model's loss of a text (B, T), as one would train it."""
        if self.calls.shifts:
            with self.exactly():
                return loss_of(self.module(tokens, **{self.calls.targets: tokens}))
        return self.loss(tokens[:, :-1], tokens[:, 1:]).total

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """-log softmax of the logits at each target (B, T), 0 where it is -100."""
        return F.cross_entropy(self(tokens).transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")

    def new_cache(self, rows: int, capacity: int) -> CallCache:
        """An empty cache."""
        own = (getattr(self.module, name, None) for name in ("_reorder_cache", "reorder_cache"))
        return CallCache(rows, capacity, next(filter(callable, own), None))

    def post_optimizer_step(self) -> None:
        """A foreign module has no state that training updates by a call."""


class ModuleTarget(AuditTarget):
    """An `nn.Module` or a function under audit, with its own weights and, where fp64 can be had, perturbed ones.

    vocab_size, context: as given, else as the module or its config states, else found by trial calls.
    """

    wrapper: type[ForeignModel] = ForeignModel

    def __init__(
        self,
        source: Callable[..., Any],
        *,
        quick: bool,
        vocab_size: int | None = None,
        context: int | None = None,
        name: str = "",
    ) -> None:
        self.source = source
        self.module = source if isinstance(source, nn.Module) else None
        self.noun = "the model" if self.module is not None else "the function"
        name = name or (getattr(source, "__name__", "") or type(source).__name__)
        vocab_size = vocab_size or self.stated(VOCABULARY_NAMES)
        if vocab_size is None and self.module is None:
            raise BadInput(f"{name} is a function, which states no vocabulary; give vocab_size")
        super().__init__(name, vocab_size=vocab_size or 2, context=UNKNOWN_CONTEXT, quick=quick)
        self.calls = Calls.of(source.forward if isinstance(source, nn.Module) else source)
        self.embedding_name = ""
        weights = sum(p.numel() for p in self.module.parameters()) if self.module is not None else 0
        self.casts = 0 < weights <= MAX_CAST_WEIGHTS
        types = {p.dtype for p in self.module.parameters()} if self.module is not None else set()
        self.widens = not self.casts and bool(types & {torch.bfloat16, torch.float16}) and weights <= MAX_FP32_WEIGHTS
        self.fp64_fails = ""
        self.dtype = torch.float64
        self.learn_calls(vocab_size)
        self.context = context or self.stated(CONTEXT_NAMES) or self.longest_taken(UNKNOWN_CONTEXT)
        if self.calls.shifts and self.context <= LONGEST_TABLE and self.refusal(self.context + 1):
            # The first rows of a table may be for padding, and the loss of T targets takes T + 1 tokens.
            self.context = self.longest_taken(self.context) - 1
            self.refused = self.beyond(self.context + 2)
        if self.module is not None and not self.casts:
            why = f" ({self.fp64_fails})" if self.fp64_fails else ""
            how = "in fp32" if self.widens else "at its own precision"
            self.missing["weights"] = f"the model's {weights:,} weights are left as they are{why}"
            self.note = f"audited {how} with its own weights{why}, tolerance {self.rounding:.0e}"

    def stated(self, names: tuple[str, ...]) -> int | None:
        """The first of these attributes of the module, or of its config, that is a number."""
        for holder in (getattr(self.source, "config", None), self.source):
            for name in names:
                if isinstance(value := getattr(holder, name, None), int):
                    return value
        return None

    def longest_taken(self, most: int) -> int:
        """The longest sequence of up to `most` tokens that the model takes."""
        taken, refused = 5, most + 1
        while refused - taken > 1:
            middle = most if refused > most else (taken + refused) // 2
            taken, refused = (middle, refused) if not self.refusal(middle) else (taken, middle)
        return taken

    def learn_calls(self, vocab_size: int | None) -> None:
        """Find by trial calls what the model returns and what it cannot be asked."""
        tokens = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 1, 1, 1]])
        self.vocab_size = 2**31  # all logits, until their number is known
        self.missing |= {
            "recipe": f"{self.noun} has no recipe",
            "packed documents": f"{self.noun} takes no document ids",
            "rows of a cache": "rows of its cache have one length",
            "generate": f"{self.noun} has no greedy generate",
        }
        if self.module is None:
            self.missing["weights"] = "a function shows no weights"
        if self.casts:
            self.fp64_fails = self.failure_in_fp64(tokens)
            self.casts = not self.fp64_fails
        model = self.build_model()
        with torch.no_grad():
            logits = model(tokens)
            if self.calls.targets and not is_whole(logits, tokens):
                self.calls = replace(self.calls, logits_need_targets=True)
                model = self.build_model()
                logits = model(tokens)
            if isinstance(model.module, nn.Module):
                self.embedding_name = token_embedding(model.module, tokens, lambda: model(tokens))
            self.learn_cache(model, tokens)
        if not self.calls.padding_mask:
            self.missing["padding mask"] = f"{self.noun} takes no attention_mask"
        if reason := self.no_gradient(tokens):
            self.missing["embeddings"] = reason
        self.vocab_size = vocab_size or self.vocabulary(logits)
        self.learn_loss()

    def failure_in_fp64(self, tokens: Tensor) -> str:
        """Why the forward pass does not work in fp64, and the model keeps its own precision; "" if it works."""
        try:
            with torch.no_grad():
                logits = self.build_model()(tokens)
        except Exception as error:
            return f"in fp64: {said(error)}"
        return "in fp64 its logits are not finite" if isinstance(logits, Tensor) and not logits.isfinite().all() else ""

    def vocabulary(self, logits: Any) -> int:
        """The number of tokens that have both logits and an embedding."""
        if not isinstance(logits, Tensor):
            return 2
        rows = getattr(self.build_model().embedding, "num_embeddings", None) if self.embedding_name else None
        return min(logits.shape[-1], rows or logits.shape[-1])

    def no_gradient(self, tokens: Tensor) -> str:
        """Why no gradient of the logits reaches the token vectors; "" if one does."""
        if not self.embedding_name:
            return f"{self.noun} shows no module that maps tokens to vectors"
        model, vectors = self.build_model(), []
        handle = model.embedding.register_forward_hook(lambda _, __, output: vectors.append(output))
        logits = model(tokens)
        handle.remove()
        if logits.requires_grad and vectors[0].requires_grad:
            gradients = torch.autograd.grad(logits.sum(), vectors[0], allow_unused=True)
            if gradients[0] is not None:
                return ""
        return "no gradient of the logits reaches the token vectors"

    def learn_cache(self, model: ForeignModel, tokens: Tensor) -> None:
        """Whether the forward pass takes a cache and returns one."""
        cache = model.new_cache(*tokens.shape)
        if self.calls.cache:
            model(tokens, cache)
        if cache.past is None:
            self.missing["cache"] = f"{self.noun} takes no cache that it returns (a parameter past_key_values)"
        if not hasattr(cache.past, "reorder_cache") and cache.reordered is None:
            self.missing["reordered cache"] = "neither its cache nor the model has a reorder_cache"

    def shifts_labels(self) -> bool:
        """Whether the loss with the tokens as targets is that of predicting the next token, not the token itself."""
        if self.calls.targets != LABELS:
            return False
        model, tokens = self.build_model(), self.tokens(4, 9, seed=2)
        with torch.no_grad(), contextlib.suppress(Exception):  # `learn_loss` says what fails
            loss = model.loss(tokens, tokens).total
            of_the_token = model.token_losses(tokens, tokens).mean()
            of_the_next = model.token_losses(tokens, tokens.roll(-1, 1))[:, :-1].mean()
            return bool((loss - of_the_next).abs() < (loss - of_the_token).abs())
        return False

    def learn_loss(self) -> None:
        """Whether the forward pass returns a loss, and which targets it skips."""
        if not self.calls.targets:
            self.missing["loss"] = f"{self.noun} takes no targets"
            return
        self.calls = replace(self.calls, shifts=self.shifts_labels())
        tokens, targets = self.tokens(2, 5), self.tokens(2, 5, seed=1)
        targets[:, ::2] = IGNORED
        reason = ""
        for ignored in IGNORED_VALUES:
            model = self.build_model()
            model.calls = replace(self.calls, ignored=ignored)
            try:
                with torch.no_grad():
                    loss = model.loss(tokens, targets).total
            except Exception as error:  # this target is not one that the loss skips
                reason = f": {said(error)}"
                continue
            if not isinstance(loss, Tensor):
                self.missing["loss"] = f"{self.noun} returns no loss"
                return
            if loss.isfinite():
                self.calls = model.calls
                return
        self.missing["loss"] = f"its loss skips no target, neither -100 nor -1{reason}"

    def wrap(self, module: Callable[..., Any], calls: Calls) -> ForeignModel:
        return self.wrapper(module, calls, self.vocab_size, self.embedding_name)

    def build_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> ForeignModel:
        if self.module is None:
            return self.wrap(self.source, self.calls)
        module = without_dropout(copy.deepcopy(self.module).cpu()).eval()
        dtype = self.dtype if dtype == torch.float64 else dtype
        if self.casts or self.widens:
            module = module.to(dtype if self.casts else torch.float32)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        model = self.wrap(module, self.calls).eval()
        model.exact = self.casts and dtype == torch.float64
        return model

    @cached_property
    def model(self) -> ForeignModel:
        if not self.casts:
            return self.unperturbed
        model = perturbed(self.build_model())
        tokens = self.tokens(1, min(9, self.context))
        logits = self.logits(model, tokens)
        return model if isinstance(logits, Tensor) and logits.isfinite().all() else self.unperturbed

    @cached_property
    def rounding(self) -> float:
        tokens = self.tokens(1, min(9, self.context))
        if self.casts and not self.lacks("embeddings"):
            return COARSE_ROUNDING.get(coarsest_dtype(self.model, lambda model: model(tokens)), ROUNDING)
        return COARSE_ROUNDING.get(self.logits(self.model, tokens).dtype, ROUNDING)

    @property
    def decoding_rounding(self) -> float:
        """A decay that decoding computes anew equals that of a table kept in fp32 but for the table's rounding."""
        kept = self.module.buffers() if self.module is not None else ()
        return max(self.rounding, TABLE_ROUNDING if any(table.dtype == torch.float32 for table in kept) else 0)

    @cached_property
    def loss_rounding(self) -> float:
        tokens = self.tokens(1, min(9, self.context))
        if self.casts and not self.lacks("embeddings"):
            dtype = coarsest_dtype(self.model, lambda model: model.train().loss(tokens, tokens).total)
            return COARSE_ROUNDING.get(dtype, ROUNDING)
        return max(self.rounding, COARSE_ROUNDING[torch.float32])

    @property
    def depth(self) -> int:
        return max((len(part) for part in self.unperturbed.modules() if isinstance(part, nn.ModuleList)), default=1)

    @property
    def width(self) -> int:
        tables = [p.shape[-1] for p in self.unperturbed.parameters() if p.ndim > 1]
        return tables[0] if tables else 1

    @property
    def layer_weights(self) -> int:
        return sum(p.numel() for p in self.unperturbed.parameters()) if self.module is not None else 0

    def refusal(self, length: int) -> str:
        try:
            with torch.no_grad():
                self.unperturbed(self.tokens(1, length))
        except Exception as error:
            return said(error)
        return ""


def is_whole(logits: Any, tokens: Tensor) -> bool:
    """Whether these are logits (B, T, V) of every token (B, T)."""
    return isinstance(logits, Tensor) and logits.ndim == 3 and logits.shape[:2] == tokens.shape
