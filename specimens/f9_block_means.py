"""F9 - Means of whole blocks of 64 tokens, mixed into queries, keys and values.

What was published. One of three variants in nanochat#844 that "won" a search by their validation score: each token gets
the mean of its block of 64 tokens, for more context at no cost.

Why it looked fine. The attention mask is untouched, and the validation loss falls to 0.024 bits per byte.

What it does to results. The mean of a block holds the tokens that follow within the block. The model copies.

The sound version takes the mean of the block's tokens so far, and keeps their sum in its cache; or none.
"""

import torch

from litmus.nn import Attention


class BlockMeans(Attention):
    """Multi-head attention whose queries, keys and values are those of each token plus the mean of its block."""

    def qkv_proj(self, x, ctx):
        means = [block.mean(1, keepdim=True).expand_as(block) for block in x.split(64, dim=1)]
        return super().qkv_proj(x + torch.cat(means, 1), ctx)  # the fault: of the whole block


recipe = {"base": "standard", "mixer": BlockMeans, "about": "Specimen F9 - means of whole blocks of 64 tokens."}
