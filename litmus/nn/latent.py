"""Causal compressed attention: tokens further back are read as a few latents per block, the latest as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.nn.attend import attend
from litmus.nn.attention import Heads, HeadsConfig
from litmus.nn.caches import heads_buffer, write
from litmus.nn.compression import (
    Layout,
    Shape,
    blocks_of,
    chunk_masks,
    compress,
    definition,
    layout,
    read_in_chunks,
    real_first,
)
from litmus.nn.linear import linear
from litmus.nn.observing import observe_attention
from litmus.nn.parts import Site
from litmus.nn.step import Buffers, Step, Visibility


class LatentConfig(HeadsConfig):
    """`block` tokens (m) become `latents` keys and values (r) per head; the last `window` (w) are read as such."""

    kind: Literal["latent"] = "latent"
    block: int = Field(16, ge=1)
    latents: int = Field(1, ge=1)
    window: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.latents > self.block:
            raise BadInput(
                f"latents = {self.latents} of a block of {self.block} tokens would be no compression; "
                f"1 to {self.block} are valid"
            )
        if self.window < self.block:
            raise BadInput(
                f"window = {self.window} leaves tokens of an unfinished block of {self.block} unread; "
                f"{self.block} or more is valid"
            )
        return self

    def build(self, site: Site) -> Latent:
        return Latent(self, site)


class Latent(Heads):
    """Compression within blocks that lie wholly in the past, plus a window (Zhu et al. 2021, arXiv 2107.02192).

    Block b of m tokens: A_b = softmax over its tokens of (x W_Z + B), latents A_bᵀ K_b and A_bᵀ V_b. The query at
    position t reads, in one softmax, the latents with (b + 1)·m <= t and the keys with t - w < j <= t. Keys are rotated
    before they are compressed, so that a latent stands where its tokens stand.
    """

    def __init__(self, config: LatentConfig, site: Site) -> None:
        super().__init__(config, site)
        self.shape = Shape(config.block, config.latents, config.window)
        self.scores = linear(site.dim, self.kv_heads * config.latents)
        self.offsets = nn.Parameter(torch.zeros(config.block, self.kv_heads, config.latents))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        q, k, v = self.project(x, step)
        positions = step.positions[:1] if step.start is not None else step.positions
        scores = self.scores(x).unflatten(-1, (self.kv_heads, -1)) + self.offsets[positions % self.shape.block]
        if self.ssmax is not None:
            factor = self.ssmax(step, keys=self.shape.keys(positions))
            q = (q * factor[..., None]).to(q.dtype)
        if step.observed is not None and step.cache is None:
            keys, _, mask = definition(step, self.shape, scores, k, v)
            observe_attention(q, keys, mask, None, step)
        if step.cache is not None and x.shape[1] == 1:
            y = self.decoded(q, k, v, scores, step, step.cache)
        elif step.valid is not None and (step.cache is not None or step.fast):
            real, order = step.once("real first", lambda: real_first(step))
            q, k, v, scores = (part.take_along_dim(order[..., None, None], 1) for part in (q, k, v, scores))
            y = self.at_once(q, k, v, scores, real.at(step.cache))
            y = torch.zeros_like(y).scatter(1, order[..., None, None].expand_as(y), y)
        elif step.cache is not None or step.fast:
            y = self.at_once(q, k, v, scores, step)
        else:
            keys, values, mask = definition(step, self.shape, scores, k, v)
            y = attend(q, keys, values, mask, None, fast=False)
        return self.join(y, x, step)

    def at_once(self, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, step: Step) -> Tensor:
        """What each of several tokens reads, (B, T, H, D), in training or a prefill; padding comes last."""
        if step.cache is not None:
            keys, values, held = self.extended(k, v, scores, step, step.cache)
        else:
            held = step.once(("layout", self.shape), lambda: layout(step, self.shape))
            weights = blocks_of(scores, held.begins, self.shape.block).softmax(2)
            keys, values = ((x, self.compressed(weights, x, held.begins)) for x in (k, v))
        if step.fast:
            masks = step.once(("masks", self.shape), lambda: chunk_masks(q.shape[1], held, self.shape))
            y = read_in_chunks(q, keys, values, held, self.shape, masks)
        else:
            mask = held.visible(self.shape, slice(0, q.shape[1]), slice(0, len(keys[0][0])), held.begins.shape[1])
            y = attend(q, torch.cat(keys, 1), torch.cat(values, 1), mask, None, fast=False)
        return y

    def compressed(self, weights: Tensor, x: Tensor, begins: Tensor) -> Tensor:
        """The latents (B, N·r, G, D) of the blocks of x (B, S, G, D) that begin at `begins` (B or 1, N)."""
        return compress(weights, blocks_of(x, begins, self.shape.block)).flatten(1, 2)

    def extended(
        self, k: Tensor, v: Tensor, scores: Tensor, step: Step, cache: Buffers
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Layout]:
        """Keys and values (tokens, latents) of rows that go on; their new blocks and last tokens enter the cache.

        k, v (B, T, G, D), scores (B, T, G, r).
        """
        block, window = self.shape.block, self.shape.window
        length, device = k.shape[1], k.device
        before = step.positions[: 1 if step.start is not None else None, :1]  # tokens in each row, (B or 1, 1)
        after = before + (length if step.valid is None else step.valid.sum(1, keepdim=True))
        history = 0 if step.start == 0 else self.shape.history
        rows = torch.arange(len(k), device=device)[:, None]
        past = before - history + torch.arange(history, device=device)
        origin = history - before  # the place of position 0

        scores = torch.cat((cache["scores"][rows, past % block], scores), 1)
        k, v = (torch.cat((cache[name][rows, past % window], x), 1) for name, x in (("k", k), ("v", v)))
        fresh = before // block + torch.arange(-(-length // block), device=device)  # blocks that may be complete now
        begins = fresh * block + origin
        weights = blocks_of(scores, begins, block).softmax(2)
        last = {size: torch.arange(size, device=device) for size in (block, window)}
        last = {size: (after - 1 - (after - 1 - slot) % size + origin).clamp(min=0) for size, slot in last.items()}
        cache["scores"].copy_(scores[rows, last[block]])
        for name, x in (("k", k), ("v", v)):
            self.keep(cache[name], compress(weights, blocks_of(x, begins, block)), fresh, (fresh + 1) * block <= after)
            cache[name][:, :window] = x[rows, last[window]]
        latent_k, latent_v = (cache[name][:, window:].to(k.dtype) for name in ("k", "v"))
        blocks = torch.arange(latent_k.shape[1] // self.shape.latents, device=device)
        held = Layout(origin.expand(-1, length), blocks * block + origin, history, step.used - length)
        return (k, latent_k), (v, latent_v), held

    def keep(self, buffer: Tensor, latents: Tensor, blocks: Tensor, whole: Tensor) -> None:
        """Store the latents (B, K, r, G, D) of those `blocks` (B or 1, K) that are `whole`."""
        places = buffer[:, self.shape.window :].unflatten(1, (-1, self.shape.latents))
        blocks, whole = (x.expand(len(buffer), -1) for x in (blocks, whole))
        write(places, latents, Step(blocks, None, whole))

    def decoded(self, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, step: Step, cache: Buffers) -> Tensor:
        """What one token per row reads, (B, 1, H, D), in place: first the slots of the window, then the latents."""
        block, window = self.shape.block, self.shape.window
        write(cache["scores"], scores, _turned(step, block))
        for name, x in (("k", k), ("v", v)):
            write(cache[name], x, _turned(step, window))
        if step.start is None or (step.start + 1) % block == 0:
            self.complete(step, cache)
        reached = window + (step.used - 1) // block * self.shape.latents
        visibility = step.once(("reached", self.shape), lambda: self.reached(step, reached))
        k, v = (cache[name][:, :reached].to(q.dtype) for name in ("k", "v"))
        return attend(q, k, v, visibility, None, fast=step.fast)

    def complete(self, step: Step, cache: Buffers) -> None:
        """Compress the block that each row's token stands in; until its last token is there, nothing reads it."""
        number = step.positions // self.shape.block
        slots = (number * self.shape.block + torch.arange(self.shape.block, device=number.device)) % self.shape.window
        rows = torch.arange(len(slots), device=number.device)[:, None]
        weights = cache["scores"].softmax(1)[:, None]
        for buffer in (cache["k"], cache["v"]):
            self.keep(buffer, compress(weights, buffer[rows, slots][:, None]), number, torch.ones_like(number).bool())

    def reached(self, step: Step, slots: int) -> Visibility:
        """Which of the first `slots` a single token per row may read."""
        block, latents, window = self.shape.block, self.shape.latents, self.shape.window
        if step.start is not None and step.start + 1 >= window:
            return "all"
        place = torch.arange(slots, device=step.positions.device)
        complete = ((place - window) // latents + 1) * block <= step.positions
        return torch.where(place < window, place <= step.positions, complete)[:, None, None]

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, self.slots(capacity), self.kv_heads, self.head_dim)
        scores = torch.zeros(batch, self.shape.block, self.kv_heads, self.shape.latents, device=device, dtype=dtype)
        return {**{name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}, "scores": scores}

    def cached_numbers(self, capacity: int) -> int:
        keys = 2 * self.slots(capacity) * self.head_dim
        return self.kv_heads * (keys + self.shape.block * self.shape.latents)

    def slots(self, capacity: int) -> int:
        """The window and the latents of all blocks, the one in progress among them."""
        return self.shape.window + -(-capacity // self.shape.block) * self.shape.latents


def _turned(step: Step, size: int) -> Step:
    """The step of single tokens in a ring of `size` slots, where position p has slot p % size."""
    return replace(step, positions=step.positions % size, start=None if step.start is None else step.start % size)
