"""F9 - A recurrence over the means of chunks of 16 tokens.

What was published. The second variant in nanochat#844: a memory is updated once per chunk, with the chunk's mean, and
every token reads the memory of its chunk.

Why it looked fine. A recurrence is causal by construction, and validation reached 0.077 bits per byte.

What it does to results. It is causal from chunk to chunk. Within a chunk, the first token reads what the last wrote.

The sound version reads the memory of the chunk before.
"""

import torch
from torch import nn


class ChunkRecurrence(nn.Module):
    """m_c = a · m_(c-1) + mean of chunk c; each token of the chunk reads m_c."""

    def __init__(self, dim, chunk: int = 16):
        super().__init__()
        self.chunk = chunk
        self.map = nn.Linear(dim, dim, bias=False)
        self.decay = nn.Parameter(torch.zeros(dim))

    def forward(self, x):  # (B, T, dim) of whole texts
        memory, reads = torch.zeros_like(x[:, :1]), []
        for tokens in x.split(self.chunk, dim=1):
            before, memory = memory, self.decay.sigmoid() * memory + tokens.mean(1, keepdim=True)
            reads.append((before + memory).expand_as(tokens))  # the fault: `memory` holds this chunk
        return self.map(x + torch.cat(reads, 1))


recipe = {"base": "standard", "mixer": ChunkRecurrence, "about": "Specimen F9 - a recurrence over means of chunks."}
