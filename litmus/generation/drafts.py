"""What drafts tokens for speculative decoding: a model's own multi-token modules, or a smaller model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from litmus.data import Tokenizer
from litmus.errors import BadInput
from litmus.generation.weights import prepared
from litmus.model import Decoder
from litmus.nn import Cache, Mixer
from litmus.nn.objectives.mtp import MtpObjective, SequentialMtp
from litmus.training import load_run

OWN = "self"
"""The name of a draft by the model's own modules, where others are named by their run's folder."""

Draw = Callable[[Tensor], int]
"""Draws a token from logits (1, V) that follow all tokens drawn before."""

AHEAD = 4
"""Tokens that a smaller model drafts at a time."""


class Draft(Protocol):
    """Proposes tokens for one text. `ahead` is how many it can propose at a time."""

    ahead: int

    def begin(self, capacity: int) -> None:
        """Start a text of up to `capacity` tokens."""

    def propose(self, tokens: Sequence[int], number: int, draw: Draw) -> None:
        """Call `draw` on the logits of `number` further tokens, one after another; it gives the token of each."""

    def settle(self, kept: int, hidden: Tensor) -> None:
        """The first `kept` tokens stand, and `hidden` (1, T, dim) are the model's vectors of the last T of them."""


class SmallerModel:
    """Another model of the same vocabulary, `ahead` tokens at a time."""

    def __init__(self, model: Decoder, ahead: int = AHEAD) -> None:
        if ahead < 1:
            raise BadInput(f"{ahead} tokens drafted at a time are none; at least 1 is valid")
        check_rewinds(model, "the draft")
        self.model = model.eval()
        self.ahead = ahead

    def begin(self, capacity: int) -> None:
        if capacity > self.model.recipe.context:
            raise BadInput(
                f"the draft's context is {self.model.recipe.context} tokens and the text may grow to {capacity}; "
                f"ask for fewer new tokens, or take a draft with a longer context"
            )
        self.cache = self.model.new_cache(1, capacity)

    def propose(self, tokens: Sequence[int], number: int, draw: Draw) -> None:
        assert self.cache.start is not None
        entering = list(tokens[self.cache.start :])
        for _ in range(number):
            given = torch.tensor([entering], device=self.model.embedding.weight.device)
            entering = [draw(self.model.last_logits(given, self.cache))]

    def settle(self, kept: int, hidden: Tensor) -> None:
        assert self.cache.start is not None
        self.cache.truncate(min(self.cache.start, kept))


class OwnModules:
    """The modules by which a model was trained to predict further tokens: number k drafts the k-th token.

    At position i, module k reads the vector of module k - 1 there and token i + k, and predicts token i + k + 1. Each
    has a cache of its own; where a draft was wrong, it goes back to before the wrong token came in.
    """

    def __init__(self, model: Decoder) -> None:
        if not isinstance(model.objective, MtpObjective):
            raise BadInput(
                f"{model.recipe.name} has no multi-token modules to draft with (its objective is "
                f"{model.recipe.objective.kind!r}); name a smaller run as the draft"
            )
        self.model = model
        self.objective = model.objective
        self.ahead = model.objective.depth

    def begin(self, capacity: int) -> None:
        like = self.model.embedding.weight
        self.vectors = [like.new_zeros(1, capacity, like.shape[1]) for _ in range(self.ahead + 1)]
        self.caches = []
        for number in range(self.ahead):
            layers = []
            if isinstance(self.objective, SequentialMtp):
                layer: Mixer = self.objective.mtp_layers[number].layer  # type: ignore[assignment]
                layers = [layer.new_cache(1, capacity, device=like.device, dtype=like.dtype)]
            self.caches.append(Cache(layers, 1, capacity, like.device))

    def propose(self, tokens: Sequence[int], number: int, draw: Draw) -> None:
        text, known = list(tokens), len(tokens) - 1
        for ahead in range(1, number + 1):
            cache = self.caches[ahead - 1]
            first = cache.start
            assert first is not None
            entering = torch.tensor([text[first + ahead : known + ahead]], device=self.vectors[0].device)
            ctx = self.model.forward_context(entering, cache).with_cache(cache.layers[0] if cache.layers else None)
            before = self.vectors[ahead - 1][:, first:known]
            passed_on, vectors = self.objective.predict_ahead(ahead, self.model, before, entering, ctx)
            cache.advance(known - first, None)
            self.vectors[ahead][:, first:known] = passed_on
            text.append(draw(self.model.head(vectors[:, -1])))

    def settle(self, kept: int, hidden: Tensor) -> None:
        self.vectors[0][:, kept - hidden.shape[1] : kept] = hidden
        for ahead, cache in enumerate(self.caches, start=1):
            assert cache.start is not None
            cache.truncate(max(0, min(cache.start, kept - ahead)))


def check_rewinds(model: Decoder, role: str) -> None:
    """BadInput, naming the mixer, where a cache cannot take back tokens that turn out wrong."""
    for layer, parts in zip(model.layers, model.recipe.layer_parts(), strict=True):
        if not layer.supports_rollback:
            raise BadInput(
                f"{role} {model.recipe.name} cannot take back a wrong draft: the cache of its mixer "
                f"{parts['mixer'].kind!r} in block {parts['block'].kind!r} does not go back; decode it without a draft"
            )


def draft_named(
    name: str, model: Decoder, tokenizer: Tokenizer, ahead: int | None, *, trust_plugin: bool = False
) -> Draft:
    """ "self" for the model's own modules, else the run of that folder, whose tokens must be the model's."""
    if name == OWN:
        if ahead is not None:
            raise BadInput(f"the draft {OWN!r} drafts one token per module; leave out how many, or name a run")
        return OwnModules(model)
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
    return SmallerModel(prepared(run.model.to(model.embedding.weight)), AHEAD if ahead is None else ahead)
