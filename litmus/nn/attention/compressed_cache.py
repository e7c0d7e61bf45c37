"""What compressed attention keeps of a text while it decodes: the window, and the latents of what came before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litmus.nn.attention.compressed_blocks import Layout, Shape, blocks_of, compress
from litmus.nn.core.cache import update_kv
from litmus.nn.core.forward_context import AttentionMask, Buffers, ForwardContext


@dataclass(frozen=True)
class LatentCache:
    """Reads and writes a layer's buffers: "k" and "v" (B, slots, G, D), "scores" (B, m, G, r).

    The first w slots are a ring, in which position p has slot p % w; behind them block b has slots b·r to b·r + r - 1.
    "scores" has slot p % m for position p: the block in progress, whose keys the ring still holds since w >= m.
    """

    shape: Shape

    def slots(self, capacity: int) -> int:
        """The window and the latents of all blocks, the one in progress among them."""
        return self.shape.window + -(-capacity // self.shape.block) * self.shape.latents

    def append(
        self, k: Tensor, v: Tensor, scores: Tensor, ctx: ForwardContext, cache: Buffers
    ) -> tuple[Tensor, Tensor, AttentionMask]:
        """Take in one token per row; the keys and values (B, S, G, D) that it may read, in place, and which of them.

        Where rows differ in length, the block in progress is compressed at each step: nothing reads it before its last
        token is there, and no step has to find out which rows are there (on a GPU, to wait for it).
        """
        block, window = self.shape.block, self.shape.window
        update_kv(cache["scores"], scores, _turned(ctx, block))
        update_kv(cache["k"], k, _turned(ctx, window))
        update_kv(cache["v"], v, _turned(ctx, window))
        if ctx.start_pos is None or (ctx.start_pos + 1) % block == 0:
            number = ctx.positions // block
            places = (number * block + torch.arange(block, device=k.device)) % window
            rows = torch.arange(len(k), device=k.device)[:, None]
            weights = cache["scores"].softmax(1)[:, None]
            for buffer in (cache["k"], cache["v"]):
                self._keep(buffer, compress(weights, buffer[rows, places][:, None]), number)
        reached = window + (ctx.kv_len - 1) // block * self.shape.latents
        attention_mask = ctx.memo(("reached", self.shape), lambda: self._visible(ctx, reached))
        return cache["k"][:, :reached], cache["v"][:, :reached], attention_mask

    def extend(
        self, k: Tensor, v: Tensor, scores: Tensor, ctx: ForwardContext, cache: Buffers
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Layout]:
        """Take in k, v (B, T, G, D) and scores (B, T, G, r), in which padding comes last.

        Returns what the new tokens may read: keys and values as (tokens, latents), and how they lie.
        """
        block, length = self.shape.block, k.shape[1]
        before = ctx.positions[: 1 if ctx.start_pos is not None else None, :1]  # tokens in each row, (B or 1, 1)
        after = before + (length if ctx.padding_mask is None else ctx.padding_mask.sum(1, keepdim=True))
        history = 0 if ctx.start_pos == 0 else self.shape.history
        origin = history - before  # the place of position 0 in the rows of old and new tokens
        rows = torch.arange(len(k), device=k.device)[:, None]
        old = torch.arange(history, device=k.device) - origin

        scores = torch.cat((cache["scores"][rows, old % block], scores), 1)
        cache["scores"].copy_(scores[rows, _latest(block, after, origin)])
        fresh = before // block + torch.arange(-(-length // block), device=k.device)  # blocks that may end now
        begins = fresh * block + origin
        weights = blocks_of(scores, begins, block).softmax(2)
        both = []
        for buffer, new in ((cache["k"], k), (cache["v"], v)):
            tokens = torch.cat((buffer[rows, old % self.shape.window], new), 1)
            latents = compress(weights, blocks_of(tokens, begins, block))
            self._keep(buffer, latents, fresh, whole=(fresh + 1) * block <= after)
            buffer[:, : self.shape.window] = tokens[rows, _latest(self.shape.window, after, origin)]
            both.append((tokens, buffer[:, self.shape.window :].to(tokens.dtype)))
        keys, values = both
        blocks = torch.arange(keys[1].shape[1] // self.shape.latents, device=k.device)
        return keys, values, Layout(origin.expand(-1, length), blocks * block + origin, history, ctx.kv_len - length)

    def _keep(self, buffer: Tensor, latents: Tensor, blocks: Tensor, whole: Tensor | None = None) -> None:
        """Store the latents (B, K, r, G, D) of those `blocks` (B or 1, K) that are `whole`, by default of all."""
        blocks = blocks.expand(len(buffer), -1)
        whole = None if whole is None else whole.expand_as(blocks)
        update_kv(
            buffer[:, self.shape.window :].unflatten(1, (-1, self.shape.latents)),
            latents,
            ForwardContext(blocks, None, whole),
        )

    def _visible(self, ctx: ForwardContext, slots: int) -> AttentionMask:
        """Which of the first `slots` a single token per row may read."""
        window = self.shape.window
        if ctx.start_pos is not None and ctx.start_pos + 1 >= window:
            return "all"
        slot = torch.arange(slots, device=ctx.positions.device)
        ended = ((slot - window) // self.shape.latents + 1) * self.shape.block <= ctx.positions
        return torch.where(slot < window, slot <= ctx.positions, ended)[:, None, None]


def _turned(ctx: ForwardContext, size: int) -> ForwardContext:
    """The step of single tokens in a ring of `size` slots."""
    return replace(
        ctx, positions=ctx.positions % size, start_pos=None if ctx.start_pos is None else ctx.start_pos % size
    )


def _latest(size: int, after: Tensor, origin: Tensor) -> Tensor:
    """Where the tokens that a ring of `size` slots holds after `after` tokens (B or 1, 1) stand, slot by slot."""
    last = after - 1
    slot = torch.arange(size, device=after.device)
    return (last - (last - slot) % size + origin).clamp(min=0)  # below 0 for slots that nothing has reached yet
