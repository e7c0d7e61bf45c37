"""The embedding as a part: a narrow table and a map to the model's width (ALBERT, arXiv 1909.11942)."""

from torch import nn

from litmus.nn import linear


class FactorisedEmbedding(nn.Module):
    def __init__(self, vocab_size, dim, rank: int = 32):
        super().__init__()
        self.table, self.up = nn.Embedding(vocab_size, rank), linear(rank, dim)
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, tokens):  # (B, T) to (B, T, dim)
        return self.up(self.table(tokens))


recipe = {
    "base": "standard",
    "embedding": FactorisedEmbedding,
    "head": {"tied": False},
    "about": "A narrow embedding table and a map.",
}
