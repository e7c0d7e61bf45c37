"""A small GPT in the style of nanoGPT, with places for faults: what tests of foreign models audit."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal attention; a later token may be seen by `peek` positions."""

    def __init__(self, width: int, heads: int, peek: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.heads, self.peek = heads, peek

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril(self.peek)
        return self.c_proj((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, peek: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, peek)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """`logits, loss = model(idx, targets)`; without targets, the logits of the last position only, and None."""

    def __init__(self, *, peek: int = 0, vocab_size: int = 37, block_size: int = 48, layers: int = 2) -> None:
        super().__init__()
        width, heads = 32, 2
        self.config = SimpleNamespace(vocab_size=vocab_size, block_size=block_size)
        self.wte, self.wpe = nn.Embedding(vocab_size, width), nn.Embedding(block_size, width)
        self.h = nn.ModuleList(Block(width, heads, peek if layer == 1 else 0) for layer in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, idx: Tensor) -> Tensor:
        assert idx.shape[1] <= self.config.block_size, "too long"
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if targets is None:
            return self.lm_head(self.hidden(idx)[:, [-1]]), None
        logits = self.lm_head(self.hidden(idx))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
