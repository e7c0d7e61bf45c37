"""Causal compressed attention: tokens further back are read as a few latents per block, the latest as they are."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.nn.attend import attend
from litmus.nn.attention import Heads, HeadsConfig
from litmus.nn.caches import heads_buffer
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
from litmus.nn.latent_cache import LatentCache
from litmus.nn.linear import linear
from litmus.nn.observing import observe_attention
from litmus.nn.parts import Site
from litmus.nn.step import Buffers, Step


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
        self.held = LatentCache(self.shape)
        self.scores = linear(site.dim, self.kv_heads * config.latents)
        self.offsets = nn.Parameter(torch.zeros(config.block, self.kv_heads, config.latents))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        q, k, v = self.project(x, step)
        positions = step.positions[:1] if step.start is not None else step.positions
        scores = self.scores(x).unflatten(-1, (self.kv_heads, -1)) + self.offsets[positions % self.shape.block]
        if self.ssmax is not None:
            factor = self.ssmax(step, keys=self.shape.keys(positions))
            q = (q * factor[..., None]).to(q.dtype)
        if step.cache is not None and x.shape[1] == 1:
            keys, values, visibility = self.held.append(k, v, scores, step, step.cache)
            y = attend(q, keys.to(q.dtype), values.to(q.dtype), visibility, None, fast=step.fast)
        elif step.valid is not None and (step.cache is not None or step.fast):
            real, order = step.once("real first", lambda: real_first(step))
            q, k, v, scores = (part.take_along_dim(order[..., None, None], 1) for part in (q, k, v, scores))
            y = self.at_once(q, k, v, scores, real.at(step.cache))
            y = torch.zeros_like(y).scatter(1, order[..., None, None].expand_as(y), y)
        elif step.cache is not None or step.fast:
            y = self.at_once(q, k, v, scores, step)
        else:
            keys, values, mask = definition(step, self.shape, scores, k, v)
            observe_attention(q, keys, mask, None, step)
            y = attend(q, keys, values, mask, None, fast=False)
        return self.join(y, x, step)

    def at_once(self, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, step: Step) -> Tensor:
        """What each of several tokens reads, (B, T, H, D), in training or a prefill; padding comes last."""
        if step.cache is not None:
            keys, values, lies = self.held.extend(k, v, scores, step, step.cache)
        else:
            lies = step.once(("layout", self.shape), lambda: layout(step, self.shape))
            weights = blocks_of(scores, lies.begins, self.shape.block).softmax(2)
            keys, values = ((x, self.latents(weights, x, lies)) for x in (k, v))
        every, blocks = slice(0, keys[0].shape[1]), lies.begins.shape[1]
        if step.observed is not None:
            visible = lambda some: lies.visible(self.shape, some, every, blocks)  # noqa: E731
            observe_attention(q, torch.cat(keys, 1), visible, None, step)
        if step.fast:
            masks = step.once(("masks", self.shape), lambda: chunk_masks(q.shape[1], lies, self.shape))
            return read_in_chunks(q, keys, values, lies, self.shape, masks)
        mask = lies.visible(self.shape, slice(0, q.shape[1]), every, blocks)
        return attend(q, torch.cat(keys, 1), torch.cat(values, 1), mask, None, fast=step.fast)

    def latents(self, weights: Tensor, x: Tensor, lies: Layout) -> Tensor:
        """The latents (B, N·r, G, D) of the blocks of x (B, T, G, D)."""
        return compress(weights, blocks_of(x, lies.begins, self.shape.block)).flatten(1, 2)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, self.held.slots(capacity), self.kv_heads, self.head_dim)
        scores = torch.zeros(batch, self.shape.block, self.kv_heads, self.shape.latents, device=device, dtype=dtype)
        return {**{name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}, "scores": scores}

    def cached_numbers(self, capacity: int) -> int:
        keys = 2 * self.held.slots(capacity) * self.head_dim
        return self.kv_heads * (keys + self.shape.block * self.shape.latents)
