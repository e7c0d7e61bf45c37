"""The decoder: embedding, layers, final norm and head, built from a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.model.bounds import check_built
from litmus.model.recipe import Recipe
from litmus.nn.core.aux_losses import AuxLosses, scored
from litmus.nn.core.batch import Batch
from litmus.nn.core.cache import Cache
from litmus.nn.core.forward_context import ForwardContext, positions_within
from litmus.nn.core.mixer import part_elements
from litmus.nn.core.random_streams import RandomStreams
from litmus.nn.core.registry import PartlyActive, takes_context
from litmus.nn.layers.dropout import Dropout
from litmus.nn.layers.embeddings import tie
from litmus.nn.objectives.objective import Loss, shared


class Decoder(nn.Module):
    """A causal language model: `model(tokens)[:, t]` is the distribution of token t+1 given tokens 0..t."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        check_built(recipe)
        self.recipe = recipe
        streams = RandomStreams()
        layers = recipe.layer_contexts(streams)
        with streams.part("embedding"):
            self.embedding = recipe.embedding.build(layers[0])
        self._embedding_takes_context = takes_context(self.embedding)
        with streams.part("positions"):
            self.positions = recipe.positions.build(layers[0])
        self.dropout = Dropout(recipe.dropout)
        self.layers = nn.ModuleList()
        for layer, owner in zip(layers, recipe.weight_owners(), strict=True):
            self.layers.append(layer.new_layer() if owner == layer.index else self.layers[owner])
        self.norm = layers[-1].norm()
        with streams.part("head"):
            self.head = recipe.head.build(layers[-1])
        if recipe.head.tied:
            tie(self.head, self.embedding)
        with streams.part("objective"):
            self.objective = recipe.objective.build(layers[-1])

    def forward(self, tokens: Tensor | Batch, cache: Cache | None = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T); with a cache the tokens continue the cached ones and are added to it.

        A `Batch` also has a padding mask and, without a cache, the ids of packed documents. Within
        `litmus.nn.reference_path()` every module computes by its slow reference implementation.
        """
        return self.head(self.hidden(tokens, cache))

    def hidden(
        self,
        tokens: Tensor | Batch,
        cache: Cache | None = None,
        *,
        observed: dict[int, dict[str, list[Tensor]]] | None = None,
        aux_losses: AuxLosses | None = None,
        queries: Any = None,
    ) -> Tensor:
        """Hidden states (B, T, dim) after the final norm: the head's input.

        Layers add auxiliary losses to `aux_losses` and statistics to `observed`, by layer number. `queries` are the
        tokens whose states are returned, for layers that can compute some alone (`litmus.nn.worker`).
        """
        batch = Batch.of(tokens)
        stats: dict[str, list[Tensor]] | None = None if observed is None else {}
        ctx = replace(self.forward_context(batch, cache, observed=stats, aux_losses=aux_losses), queries=queries)
        own = cache.layers[len(self.layers) :] if cache else []
        embedded = self.embed(batch.tokens, ctx.with_cache(own[0] if own else None))
        x = self.dropout(self.positions(embedded, ctx))
        for number, layer in enumerate(self.layers):
            x = layer(x, ctx.with_cache(cache.layers[number] if cache else None))
            if observed is not None and stats is not None:
                observed[number] = {**stats, "largest_activation": [x.abs().max()]}
                stats.clear()
        if cache is not None:
            cache.advance(batch.tokens.shape[1], batch.padding_mask)
        return self.norm(x)

    def embed(self, tokens: Tensor, ctx: ForwardContext) -> Tensor:
        """The embeddings (B, T, dim) of tokens (B, T); `ctx.cache` is the embedding's, if it has one."""
        return self.embedding(tokens, ctx) if self._embedding_takes_context else self.embedding(tokens)

    def last_logits(self, tokens: Tensor | Batch, cache: Cache | None = None, *, last: Tensor | None = None) -> Tensor:
        """Logits (B, V) after the last token of each row, or after the one at index `last` (B,)."""
        hidden = self.hidden(tokens, cache)
        chosen = hidden[:, -1] if last is None else hidden[torch.arange(len(hidden), device=hidden.device), last]
        return self.head(chosen)

    def loss(self, tokens: Tensor | Batch, targets: Tensor | None = None, *, label_smoothing: float = 0.0) -> Loss:
        """Training loss of tokens and targets (B, T), or of a Batch with targets; targets of -100 are skipped."""
        batch = tokens if isinstance(tokens, Batch) else Batch(tokens, targets)
        loss = self.objective(self, batch, label_smoothing)
        return shared(loss, scored(batch.scored_targets))

    @torch.no_grad()
    def token_losses(self, tokens: Tensor | Batch, targets: Tensor | None = None) -> Tensor:
        """Cross-entropy (B, T) of each target in nats and at least fp32, 0 where it is -100; logits are chunked."""
        return self.objective.token_losses(self, tokens if isinstance(tokens, Batch) else Batch(tokens, targets))

    def post_optimizer_step(self) -> None:
        """Update state that has no gradient, such as router biases; training calls this after each step."""
        for child in self.children():
            for module in child.modules():
                step = getattr(type(module), "post_optimizer_step", None)  # 20 times as fast as isinstance(_, Adapts)
                if step is not None:
                    step(module)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return next(self.parameters()).dtype

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache with static buffers for `batch` rows of up to `capacity` tokens."""
        if batch < 1 or capacity < 1:
            raise BadInput(f"a cache of {batch} rows x {capacity} tokens holds nothing; both must be at least 1")
        parts = self._parts_with_cache()
        buffers = [part.new_cache(batch, capacity, device=self.device, dtype=self.dtype) for part in parts]
        return Cache(buffers, batch, capacity, self.device)

    def kv_elements(self, capacity: int) -> int:
        """Number of cache elements of all layers for one row of `capacity` tokens, as the mixers declare it."""
        return sum(part_elements(part, capacity) for part in self._parts_with_cache())

    @property
    def supports_rollback(self) -> bool:
        """Whether the last tokens can be removed from the cache; speculative decoding needs it."""
        return all(getattr(part, "supports_rollback", False) for part in self._parts_with_cache())

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters: "total"; "non_embedding", those of layers and final norm; "active".

        Active are those that the logits of one token depend on: neither the objective's nor those of unused experts.
        """
        total = sum(p.numel() for p in self.parameters())
        non_embedding = sum(p.numel() for part in (self.layers, self.norm) for p in part.parameters())
        unused = sum(p.numel() for p in self.objective.parameters())
        unused += sum(part.inactive_parameters() for part in self.layers.modules() if isinstance(part, PartlyActive))
        return {"total": total, "non_embedding": non_embedding, "active": total - unused}

    def _parts_with_cache(self) -> list[Any]:
        """The layers, and after them the embedding if it has a cache, because it reads earlier tokens."""
        has_cache = callable(getattr(self.embedding, "new_cache", None))
        return [*self.layers, self.embedding] if has_cache else list(self.layers)

    def forward_context(
        self,
        tokens: Tensor | Batch,
        cache: Cache | None = None,
        *,
        observed: dict[str, list[Tensor]] | None = None,
        aux_losses: AuxLosses | None = None,
    ) -> ForwardContext:
        """The context of a forward pass over the batch; with a cache, checks that the tokens fit."""
        batch = Batch.of(tokens)
        tokens, padding_mask, document_ids = batch.tokens, batch.padding_mask, batch.document_ids
        index = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        if cache is not None:
            if document_ids is not None:
                raise BadInput("packed documents cannot be decoded with a cache; give each document a row of its own")
            kv_len = cache.reserve(tokens.shape[1])
            offset = index if padding_mask is None else (padding_mask.cumsum(1) - 1).clamp(min=0)
            return ForwardContext(
                cache.lengths[:, None] + offset,
                cache.start if padding_mask is None else None,
                padding_mask,
                kv_len=kv_len,
                observed=observed,
                token_ids=tokens,
            )
        whole = padding_mask is None and document_ids is None
        return ForwardContext(
            index if whole else positions_within(document_ids, padding_mask, index),
            0 if whole else None,
            padding_mask,
            document_ids,
            observed=observed,
            aux_losses=aux_losses,
            token_ids=tokens,
        )
