"""The decoder: embedding, layers, norm and head, built from a recipe. It is read from top to bottom."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.model.bounds import check_built
from litmus.model.recipe import Recipe
from litmus.nn.attention.stats import LAYER_FIGURES
from litmus.nn.core.aux_losses import AuxLosses, scored
from litmus.nn.core.cache import Cache
from litmus.nn.core.forward_context import ForwardContext, positions_within
from litmus.nn.core.mixer import Mixer
from litmus.nn.core.registry import Adapts
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.linear import INIT_STD, linear
from litmus.nn.moe.experts import Experts
from litmus.nn.moe.routers import RouterStats, router_figures
from litmus.nn.objectives.objective import Loss, shared


class Decoder(nn.Module):
    """A causal language model: `model(tokens)[:, t]` is the distribution of token t+1 given tokens 0..t."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        check_built(recipe)
        self.recipe = recipe
        self.embedding = nn.Embedding(recipe.vocab_size, recipe.dim)
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        layers = recipe.layer_contexts()
        self.positions = recipe.positions.build(layers[0])
        self.dropout = Dropout(recipe.dropout)
        self.layers = nn.ModuleList(layer.new_layer() for layer in layers)
        self.norm = layers[-1].norm()
        self.head = linear(recipe.dim, recipe.vocab_size, bias=recipe.head.bias)
        if recipe.head.tied:
            self.head.weight = self.embedding.weight
        self.objective = recipe.objective.build(layers[-1])

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        *,
        valid: Tensor | None = None,
        documents: Tensor | None = None,
        fast: bool = True,
    ) -> Tensor:
        """Logits (B, T, V) of tokens (B, T); with a cache the tokens continue what it holds and are added to it.

        `valid` (B, T) is False at padding, on either side. `documents` (B, T) numbers packed documents, which then
        do not see each other (not with a cache). `fast=False` takes every mechanism's plain reference.
        """
        return self.head(self.hidden(tokens, cache, valid=valid, documents=documents, fast=fast))

    def hidden(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        *,
        valid: Tensor | None = None,
        documents: Tensor | None = None,
        fast: bool = True,
        observed: dict[int, dict[str, list[Tensor]]] | None = None,
        terms: AuxLosses | None = None,
    ) -> Tensor:
        """The normed vectors (B, T, dim) that the head turns into logits.

        Layers leave loss terms in `terms`, and by the number of the layer what they tell of themselves in `observed`.
        """
        left: dict[str, list[Tensor]] | None = None if observed is None else {}
        ctx = self.forward_context(
            tokens, cache, valid=valid, documents=documents, fast=fast, observed=left, terms=terms
        )
        x = self.dropout(self.positions(self.embedding(tokens), ctx))
        for number, layer in enumerate(self.layers):
            x = layer(x, ctx.with_cache(cache.layers[number] if cache else None))
            if observed is not None and left is not None:
                observed[number] = {**left, "largest_activation": [x.abs().max()]}
                left.clear()
        if cache is not None:
            cache.advance(tokens.shape[1], valid)
        return self.norm(x)

    def last_logits(
        self, tokens: Tensor, cache: Cache | None = None, *, valid: Tensor | None = None, last: Tensor | None = None
    ) -> Tensor:
        """Logits (B, V) after the last token of each row, or after the one that `last` (B,) points at."""
        hidden = self.hidden(tokens, cache, valid=valid)
        chosen = hidden[:, -1] if last is None else hidden[torch.arange(len(hidden), device=hidden.device), last]
        return self.head(chosen)

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        documents: Tensor | None = None,
        label_smoothing: float = 0.0,
        fast: bool = True,
    ) -> Loss:
        """The training loss of tokens (B, T) against targets (B, T); targets of -100 are not scored."""
        loss = self.objective(self, tokens, targets, documents=documents, label_smoothing=label_smoothing, fast=fast)
        return shared(loss, scored(targets))

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None) -> Tensor:
        """Nats of each target (B, T) in at least fp32, 0 where it is -100; the logits never exist all at once."""
        return self.objective.token_losses(self, tokens, targets, documents=documents)

    @torch.no_grad()
    def observe(self, tokens: Tensor) -> tuple[dict[str, dict[int, float]], dict[int, RouterStats]]:
        """What layers tell of themselves on tokens (B, T), in one pass.

        By name (litmus.nn.attention.stats) and by layer, from 0, the figures of the layers that have one; and by layer
        how evenly the routers of experts spread the tokens.
        """
        observed: dict[int, dict[str, list[Tensor]]] = {}
        self.hidden(tokens, observed=observed)
        figures = {
            name: {number: float(torch.stack(left[name]).mean()) for number, left in observed.items() if name in left}
            for name in LAYER_FIGURES
        }
        routing = {number: router for number, left in observed.items() for router in router_figures([left])}
        return {name: values for name, values in figures.items() if values}, routing

    def layer_figures(self, tokens: Tensor) -> dict[str, dict[int, float]]:
        """What layers tell of themselves on tokens (B, T): by name and layer, where a layer has such a figure."""
        return self.observe(tokens)[0]

    def routing(self, tokens: Tensor) -> dict[int, RouterStats]:
        """How evenly the router of each layer of experts spreads tokens (B, T), by layer."""
        return self.observe(tokens)[1]

    def post_optimizer_step(self) -> None:
        """Let the parts that adapt by another rule than the gradient do so; training calls it once per step."""
        for child in self.children():
            for module in child.modules():
                if isinstance(module, Adapts):
                    module.post_optimizer_step()

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache with static buffers for `batch` rows of up to `capacity` tokens."""
        if batch < 1 or capacity < 1:
            raise BadInput(f"a cache of {batch} rows x {capacity} tokens holds nothing; both must be at least 1")
        like = self.embedding.weight
        layers = [layer.new_cache(batch, capacity, device=like.device, dtype=like.dtype) for layer in self._mixers()]
        return Cache(layers, batch, capacity, like.device)

    def kv_elements(self, capacity: int) -> int:
        """How many numbers all layers need to cache one row of `capacity` tokens, as the mixers declare it."""
        return sum(layer.kv_elements(capacity) for layer in self._mixers())

    def parameter_counts(self) -> dict[str, int]:
        """Parameters in total; without the token embedding, the position table and the head; and active ones.

        Active are those that the logits of one token use: the objective's own are not, nor experts not chosen.
        """
        total = sum(p.numel() for p in self.parameters())
        outside = sum(p.numel() for part in (self.layers, self.norm) for p in part.parameters())
        unused = sum(p.numel() for p in self.objective.parameters())
        unused += sum(module.idle_parameters() for module in self.layers.modules() if isinstance(module, Experts))
        return {"total": total, "non_embedding": outside, "active": total - unused}

    def _mixers(self) -> list[Mixer]:
        return list(self.layers)  # type: ignore[arg-type]

    def forward_context(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        *,
        valid: Tensor | None = None,
        documents: Tensor | None = None,
        fast: bool = True,
        observed: dict[str, list[Tensor]] | None = None,
        terms: AuxLosses | None = None,
    ) -> ForwardContext:
        """What layers need to know of tokens (B, T) besides their vectors; reserves their places in the cache."""
        batch, length = tokens.shape
        index = torch.arange(length, device=tokens.device).expand(batch, length)
        if cache is not None:
            if documents is not None:
                raise BadInput("packed documents cannot be decoded with a cache; give each document a row of its own")
            used = cache.reserve(length)
            offset = index if valid is None else (valid.cumsum(1) - 1).clamp(min=0)
            start = cache.start if valid is None else None
            return ForwardContext(
                cache.lengths[:, None] + offset, start, valid, None, None, used, fast, observed=observed
            )
        if valid is None and documents is None:
            return ForwardContext(index, 0, fast=fast, observed=observed, aux_losses=terms)
        positions = positions_within(documents, valid, index)
        return ForwardContext(positions, None, valid, documents, fast=fast, observed=observed, aux_losses=terms)
