"""Drafts for speculative decoding: a model's own multi-token prediction (MTP) modules, or a smaller model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from litmus.data import Tokenizer
from litmus.errors import BadInput
from litmus.generation.decode_weights import prepare
from litmus.model import Decoder
from litmus.nn import Cache
from litmus.nn.objectives.mtp import MtpObjective
from litmus.training.run.loading import load_run

SELF = "self"
"""The name of the draft that uses the model's own MTP modules; other drafts are named by their run folder."""

DEFAULT_DRAFT_TOKENS = 4
"""Tokens that a smaller model drafts at a time by default."""

Sample = Callable[[Tensor], int]
"""Samples a token from logits (1, V) that follow all tokens sampled before."""


class Draft(Protocol):
    """Proposes tokens for one text, up to `max_tokens` at a time."""

    max_tokens: int

    def start(self, capacity: int) -> None:
        """Start a text of up to `capacity` tokens."""

    def propose(self, tokens: Sequence[int], number: int, sample: Sample) -> None:
        """Draft `number` tokens autoregressively; `sample(logits)` samples each one and returns it."""

    def commit(self, kept: int, hidden: Tensor) -> None:
        """Keep the first `kept` tokens; `hidden` (1, T, dim) are the model's hidden states of the last T of them."""


class ModelDraft:
    """Another model with the same vocabulary."""

    def __init__(self, model: Decoder, max_tokens: int = DEFAULT_DRAFT_TOKENS) -> None:
        if max_tokens < 1:
            raise BadInput(f"{max_tokens} tokens drafted at a time are none; at least 1 is valid")
        check_supports_rollback(model, "the draft")
        self.model = model.eval()
        self.max_tokens = max_tokens

    def start(self, capacity: int) -> None:
        if capacity > self.model.recipe.context:
            raise BadInput(
                f"the draft's context is {self.model.recipe.context} tokens and the text may grow to {capacity}; "
                f"ask for fewer new tokens, or take a draft with a longer context"
            )
        self.cache = self.model.new_cache(1, capacity)

    def propose(self, tokens: Sequence[int], number: int, sample: Sample) -> None:
        assert self.cache.start is not None
        new = list(tokens[self.cache.start :])
        for _ in range(number):
            given = torch.tensor([new], device=self.model.device)
            new = [sample(self.model.last_logits(given, self.cache))]

    def commit(self, kept: int, hidden: Tensor) -> None:
        assert self.cache.start is not None
        self.cache.truncate(min(self.cache.start, kept))


class MtpDraft:
    """The MTP modules that the model was trained with: module k drafts the k-th token.

    At position i, module k reads the hidden state of module k - 1 and token i + k, and predicts token i + k + 1. Each
    module has a cache of its own, which is truncated before the first rejected token.
    """

    def __init__(self, model: Decoder) -> None:
        if not isinstance(model.objective, MtpObjective):
            raise BadInput(
                f"{model.recipe.name} has no multi-token modules to draft with (its objective is "
                f"{model.recipe.objective.kind!r}); name a smaller run as the draft"
            )
        self.model = model
        self.objective = model.objective
        self.max_tokens = model.objective.depth

    def start(self, capacity: int) -> None:
        like = next(self.model.parameters())
        self.hidden = [like.new_zeros(1, capacity, self.model.recipe.dim) for _ in range(self.max_tokens + 1)]
        self.caches = []
        for k in range(1, self.max_tokens + 1):
            buffers = self.objective.draft_buffers(k, capacity, device=like.device, dtype=like.dtype)
            self.caches.append(Cache([buffers], 1, capacity, like.device))

    def propose(self, tokens: Sequence[int], number: int, sample: Sample) -> None:
        text, known = list(tokens), len(tokens) - 1
        for k in range(1, number + 1):
            cache = self.caches[k - 1]
            first = cache.start
            assert first is not None
            new = torch.tensor([text[first + k : known + k]], device=self.hidden[0].device)
            ctx = self.model.forward_context(new, cache).with_cache(cache.layers[0])
            previous = self.hidden[k - 1][:, first:known]
            passed_on, predicting = self.objective.predict_ahead(k, self.model, previous, new, ctx)
            cache.advance(known - first, None)
            self.hidden[k][:, first:known] = passed_on
            text.append(sample(self.model.head(predicting[:, -1])))

    def commit(self, kept: int, hidden: Tensor) -> None:
        self.hidden[0][:, kept - hidden.shape[1] : kept] = hidden
        for k, cache in enumerate(self.caches, start=1):
            assert cache.start is not None
            cache.truncate(max(0, min(cache.start, kept - k)))


def check_supports_rollback(model: Decoder, role: str) -> None:
    """BadInput, naming the mixer, where a cache cannot drop rejected tokens."""
    for layer, parts in zip(model.layers, model.recipe.layer_parts(), strict=True):
        if not layer.supports_rollback:
            raise BadInput(
                f"{role} {model.recipe.name} cannot drop rejected tokens: the cache of its mixer "
                f"{parts['mixer'].kind!r} in block {parts['block'].kind!r} cannot be truncated; decode without a draft"
            )
    if not model.supports_rollback:
        raise BadInput(
            f"{role} {model.recipe.name} cannot drop rejected tokens: the cache of its embedding "
            f"{model.recipe.embedding.kind!r} cannot be truncated; decode without a draft"
        )


def load_draft(
    name: str, model: Decoder, tokenizer: Tokenizer, max_tokens: int | None, *, trust_plugin: bool = False
) -> Draft:
    """ "self" for the model's own MTP modules, else the run of that folder, whose tokenizer must be the model's."""
    if name == SELF:
        if max_tokens is not None:
            raise BadInput(f"the draft {SELF!r} drafts one token per module; leave out how many, or name a run")
        return MtpDraft(model)
    run = load_run(Path(name), trust_plugin=trust_plugin)
    if (run.tokenizer.pieces, run.tokenizer.special) != (tokenizer.pieces, tokenizer.special):
        raise BadInput(
            f"the draft {name} has another tokenizer ({run.tokenizer.name}, {run.tokenizer.vocab_size} tokens) than "
            f"the model ({tokenizer.name}, {tokenizer.vocab_size} tokens); train a draft with --tokenizer RUN"
        )
    if run.model.recipe.vocab_size != model.recipe.vocab_size:
        raise BadInput(
            f"the draft {name} has logits for {run.model.recipe.vocab_size} tokens and the model for "
            f"{model.recipe.vocab_size}; they must agree"
        )
    draft = prepare(run.model.to(next(model.parameters())))
    return ModelDraft(draft, DEFAULT_DRAFT_TOKENS if max_tokens is None else max_tokens)
