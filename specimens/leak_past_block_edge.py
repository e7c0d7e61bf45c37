"""A leak that needs a sequence of at least one whole block (64 tokens).

What it is. Each query attends to the last 64 tokens and, beyond them, to one summary (mean key, mean value) per
finished block of 64, so that old text stays readable. A summary is shown to the queries that come after the block's
*first* token; it should be shown to those that come after its last.

Why it looks fine. A sequence shorter than a block has no finished block: on every test of up to 63 tokens this is
plain causal attention, cached decoding included.

What it does to results. In training, every query within a block reads the mean of the whole block, the tokens that
it has to predict included. Validation at full length leaks in the same way, and so looks excellent; decoding cannot.

The sound version compares the query with the end of the block: change `begin` to `end` where the fault is marked.
"""

from typing import Literal

import torch
from torch import Tensor

from litmus.nn import Buffers, Mixer, MixerConfig, Site, Step, attend, linear, residual_linear, write


class BlockSummaryConfig(MixerConfig):
    kind: Literal["block_summary"] = "block_summary"
    block: int = 64

    def build(self, site: Site) -> Mixer:
        return BlockSummary(self, site)


class BlockSummary(Mixer):
    """One softmax over the last `block` tokens and the summaries of finished blocks."""

    def __init__(self, config: BlockSummaryConfig, site: Site) -> None:
        super().__init__()
        self.block = config.block
        self.heads, self.head_dim = site.heads, site.dim // site.heads
        self.rotation = site.positions.rotation(self.head_dim)
        self.qkv = linear(site.dim, 3 * site.dim)
        self.out = residual_linear(site.dim, site)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, self.head_dim)).chunk(3, dim=2)  # (B, T, H, D) each
        if self.rotation is not None:
            q, k = self.rotation(q, step), self.rotation(k, step)
        if step.cache is not None:
            k, v = write(step.cache["k"], k, step), write(step.cache["v"], v, step)
        visible = step.visibility(window=self.block)
        if k.shape[1] >= self.block:
            # A mean for every run of `block` tokens; only those of whole blocks are ever read.
            summaries = step.once(("summaries", self.block), lambda: self.readable(step, k.shape[1]))
            visible = torch.cat((visible.expand(len(x), -1, -1, -1), summaries), dim=-1)
            k, v = (torch.cat((kv, kv.unfold(1, self.block, 1).mean(-1)), dim=1) for kv in (k, v))
        return self.out(attend(q, k, v, visible, None, fast=step.fast).flatten(-2))

    def readable(self, step: Step, keys: int) -> Tensor:
        """Which runs of `block` tokens each query may read a summary of: (B, 1, T, keys - block + 1)."""
        slots = torch.arange(keys, device=step.positions.device).expand(len(step.positions), -1)
        end = (step.positions if step.cache is None else slots)[:, None, self.block - 1 :]
        begin = end - self.block + 1
        visible = (begin % self.block == 0) & (begin <= step.positions[..., None])  # the fault: `end` belongs here
        if step.cache is not None:
            visible = visible & (end <= step.positions.amax(1)[:, None, None])  # slots beyond a row's end are empty
        if step.cache is None and step.valid is not None:
            visible = visible & step.valid[:, None, self.block - 1 :]
        if step.documents is not None:
            visible = visible & (step.documents[:, None, self.block - 1 :] == step.documents[..., None])
        return visible[:, None]

    def new_cache(self, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype) -> Buffers:
        shape = (batch, capacity, self.heads, self.head_dim)
        return {name: torch.zeros(shape, device=device, dtype=dtype) for name in ("k", "v")}

    def cached_numbers(self, capacity: int) -> int:
        return 2 * self.heads * self.head_dim * capacity


recipe = {
    "base": "standard",
    "about": "Specimen - summaries of whole blocks, readable from within the block.",
    "mixer": {"kind": "block_summary"},
}
