"""The cache of compressed attention: a ring buffer for the window, and the latents of completed blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litmus.nn.attention.compressed_blocks import Layout, Shape, compress, gather_blocks
from litmus.nn.core.cache import update_kv
from litmus.nn.core.forward_context import AttentionMask, Buffers, ForwardContext


@dataclass(frozen=True)
class CompressedCache:
    """Reads and writes a layer's buffers: "k" and "v" (B, slots, G, D), "scores" (B, m, G, r).

    The first w slots are a ring buffer: position p has slot p % w. After them, block b has slots b·r to b·r + r - 1.
    "scores" has slot p % m for position p of the current block, whose keys are still in the ring because w >= m.
    """

    shape: Shape

    def slots(self, capacity: int) -> int:
        """Number of slots: the window, and the latents of all blocks including an incomplete one."""
        return self.shape.window + -(-capacity // self.shape.block) * self.shape.latents

    def append(
        self, k: Tensor, v: Tensor, scores: Tensor, ctx: ForwardContext, cache: Buffers
    ) -> tuple[Tensor, Tensor, AttentionMask]:
        """Write one token per row; return keys and values (B, S, G, D), as views, and their mask.

        If rows differ in length, the current block is compressed at each step: its latents are masked until the block
        is complete, and finding the rows whose block is complete would synchronize with the GPU.
        """
        block, window = self.shape.block, self.shape.window
        update_kv(cache["scores"], scores, _in_ring(ctx, block))
        update_kv(cache["k"], k, _in_ring(ctx, window))
        update_kv(cache["v"], v, _in_ring(ctx, window))
        if ctx.start_pos is None or (ctx.start_pos + 1) % block == 0:
            number = ctx.positions // block
            slots = (number * block + torch.arange(block, device=k.device)) % window
            rows = torch.arange(len(k), device=k.device)[:, None]
            weights = cache["scores"].softmax(1)[:, None]
            for buffer in (cache["k"], cache["v"]):
                self._write_latents(buffer, compress(weights, buffer[rows, slots][:, None]), number)
        reached = window + (ctx.kv_len - 1) // block * self.shape.latents
        attention_mask = ctx.memo(("reached", self.shape), lambda: self._visible(ctx, reached))
        return cache["k"][:, :reached], cache["v"][:, :reached], attention_mask

    def extend(
        self, k: Tensor, v: Tensor, scores: Tensor, ctx: ForwardContext, cache: Buffers
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Layout]:
        """Write k, v (B, T, G, D) and scores (B, T, G, r), in which padding comes last.

        Returns keys and values as (tokens, latents), and their layout.
        """
        block, length = self.shape.block, k.shape[1]
        before = ctx.positions[: 1 if ctx.start_pos is not None else None, :1]  # tokens in each row, (B or 1, 1)
        after = before + (length if ctx.padding_mask is None else ctx.padding_mask.sum(1, keepdim=True))
        history = 0 if ctx.start_pos == 0 else self.shape.history
        origin = history - before  # index of position 0 in the rows of old and new tokens
        rows = torch.arange(len(k), device=k.device)[:, None]
        old = torch.arange(history, device=k.device) - origin

        scores = torch.cat((cache["scores"][rows, old % block], scores), 1)
        cache["scores"].copy_(scores[rows, _latest(block, after, origin)])
        ending = before // block + torch.arange(-(-length // block), device=k.device)  # blocks that may be completed
        begins = ending * block + origin
        weights = gather_blocks(scores, begins, block).softmax(2)
        both = []
        for buffer, new in ((cache["k"], k), (cache["v"], v)):
            tokens = torch.cat((buffer[rows, old % self.shape.window], new), 1)
            latents = compress(weights, gather_blocks(tokens, begins, block))
            self._write_latents(buffer, latents, ending, complete=(ending + 1) * block <= after)
            buffer[:, : self.shape.window] = tokens[rows, _latest(self.shape.window, after, origin)]
            both.append((tokens, buffer[:, self.shape.window :].to(tokens.dtype)))
        keys, values = both
        blocks = torch.arange(keys[1].shape[1] // self.shape.latents, device=k.device)
        return keys, values, Layout(origin.expand(-1, length), blocks * block + origin, history, ctx.kv_len - length)

    def _write_latents(self, buffer: Tensor, latents: Tensor, blocks: Tensor, complete: Tensor | None = None) -> None:
        """Write the latents (B, K, r, G, D) of `blocks` (B or 1, K) where `complete`; None: all."""
        blocks = blocks.expand(len(buffer), -1)
        complete = None if complete is None else complete.expand_as(blocks)
        update_kv(
            buffer[:, self.shape.window :].unflatten(1, (-1, self.shape.latents)),
            latents,
            ForwardContext(blocks, None, complete),
        )

    def _visible(self, ctx: ForwardContext, slots: int) -> AttentionMask:
        """Mask of the first `slots` slots for a single token per row."""
        window = self.shape.window
        if ctx.start_pos is not None and ctx.start_pos + 1 >= window:
            return "all"
        slot = torch.arange(slots, device=ctx.positions.device)
        ended = ((slot - window) // self.shape.latents + 1) * self.shape.block <= ctx.positions
        return torch.where(slot < window, slot <= ctx.positions, ended)[:, None, None]


def _in_ring(ctx: ForwardContext, size: int) -> ForwardContext:
    """The context of single tokens, with positions replaced by slots of a ring buffer of `size` slots."""
    return replace(
        ctx, positions=ctx.positions % size, start_pos=None if ctx.start_pos is None else ctx.start_pos % size
    )


def _latest(size: int, after: Tensor, origin: Tensor) -> Tensor:
    """Index of the token in each slot of a ring of `size` slots after `after` (B or 1, 1) tokens."""
    last = after - 1
    slot = torch.arange(size, device=after.device)
    return (last - (last - slot) % size + origin).clamp(min=0)  # below 0 for empty slots
