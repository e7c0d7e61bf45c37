"""Sliding-window attention: a token reads the last few tokens and, where wanted, the first ones (attention sinks)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from litmus.nn.attend import attend
from litmus.nn.attention import Heads, HeadsConfig
from litmus.nn.caches import heads_buffer
from litmus.nn.observing import observe_attention
from litmus.nn.parts import Site
from litmus.nn.ring import Ring
from litmus.nn.step import Buffers, Step
from litmus.nn.windowed import Keys, Window, attend_window


class WindowConfig(HeadsConfig):
    """A token reads the last `window` tokens, itself among them (default: a quarter of the context), and `sinks` first.

    Sinks are the first tokens of a text, which stay readable at any distance.
    """

    kind: Literal["window"] = "window"
    window: int | None = Field(None, ge=1)
    sinks: int = Field(0, ge=0)

    def build(self, site: Site) -> WindowAttention:
        return WindowAttention(self, site)


class WindowAttention(Heads):
    """softmax(q·k / sqrt(D)) v per head over the last w tokens (Beltagy et al. 2020, arXiv 2004.05150) and the first n

    (Xiao et al. 2023, arXiv 2309.17453). Keys keep the rotation of their place in the text, in the cache as well, so
    that scores depend on true distances. SSMax counts what a token reads, min(t + 1, w + n).
    """

    def __init__(self, config: WindowConfig, site: Site) -> None:
        super().__init__(config, site)
        self.window = Window(config.window or max(1, site.context // 4), config.sinks)
        self.ring = Ring(self.window)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        q, k, v = self.project(x, step)
        factor = self.ssmax(step, self.window.size + self.window.sinks) if self.ssmax else None
        if step.cache is None:
            y = self._in_order(q, k, v, Keys(_positions(step), step.documents), step, factor)
        elif x.shape[1] == 1:
            y = self._one_by_one(q, k, v, step, step.cache, factor)
        else:
            y = self._behind_old(q, k, v, step, step.cache, factor)
        return self.join(y, x, step)

    def _in_order(self, q: Tensor, k: Tensor, v: Tensor, keys: Keys, step: Step, factor: Tensor | None) -> Tensor:
        """Read keys that stand in the order of their tokens: in blocks, or by the definition, under one mask."""
        observe_attention(q, k, lambda some: _mask(keys, self.window, step, some), factor, step)
        side_by_side = step.valid is None and (step.cache is None or step.start is not None)
        if step.fast and side_by_side:
            return attend_window(q, k, v, keys, self.window, step, factor)
        every = torch.arange(q.shape[1], device=q.device)
        mask = step.once(("window", self.window, k.shape[1]), lambda: _mask(keys, self.window, step, every))
        return attend(q, k, v, mask, factor, fast=step.fast)

    def _behind_old(self, q: Tensor, k: Tensor, v: Tensor, step: Step, cache: Buffers, factor: Tensor | None) -> Tensor:
        """Read what the ring holds and the new keys behind it; then the new ones take their places in the ring."""
        slots, positions = self.ring.held(cache["k"].shape[1], step)
        keys = Keys(torch.cat((positions, _positions(step)), dim=1))
        k_all, v_all = (torch.cat((cache[name][:, slots].to(q.dtype), x), dim=1) for name, x in (("k", k), ("v", v)))
        self.ring.write(cache["k"], k, step)
        self.ring.write(cache["v"], v, step)
        return self._in_order(q, k_all, v_all, keys, step, factor)

    def _one_by_one(self, q: Tensor, k: Tensor, v: Tensor, step: Step, cache: Buffers, factor: Tensor | None) -> Tensor:
        """A single token takes the place of the one that has just left its window, and reads all that is there."""
        self.ring.write(cache["k"], k, step)
        self.ring.write(cache["v"], v, step)
        used = self.ring.slots(step.used if step.start is None else step.start + 1)
        k, v = (cache[name][:, :used].to(q.dtype) for name in ("k", "v"))
        if step.start is not None:
            return attend(q, k, v, "all", factor, fast=step.fast)
        slot = torch.arange(used, device=q.device)
        return attend(q, k, v, (slot <= step.positions)[:, None, None], factor, fast=step.fast)

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        sizes = (batch, self.ring.slots(capacity), self.kv_heads, self.head_dim)
        return {name: heads_buffer(*sizes, device, dtype) for name in ("k", "v")}

    def cached_numbers(self, capacity: int) -> int:
        return 2 * self.kv_heads * self.head_dim * self.ring.slots(capacity)


def _positions(step: Step) -> Tensor:
    """The positions (B or 1, T) of this step's tokens."""
    return step.positions[:1] if step.start is not None else step.positions


def _mask(keys: Keys, window: Window, step: Step, queries: Tensor) -> Tensor:
    """Which keys the queries of these numbers (n,) read, (B or 1, 1, n, S)."""
    positions, length = keys.positions, step.positions.shape[1]
    older = positions.shape[1] - length
    if step.valid is not None:
        nowhere = F.pad(~step.valid, (older, 0))
        positions = positions.expand(len(nowhere), -1).masked_fill(nowhere, -1)
    mask = window.visible(_positions(step)[:, queries, None], positions[:, None])
    if step.documents is not None:
        mask = mask & (step.documents[:, queries, None] == step.documents[:, None])
    # Padding reads only itself: its output is never used, but a row without any key would be NaN.
    itself = queries[:, None] == torch.arange(length, device=mask.device)
    return (mask | F.pad(itself, (older, 0)))[:, None]
