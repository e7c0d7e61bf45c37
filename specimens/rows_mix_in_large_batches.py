"""Rows that see each other in batches of 16, 32, ... rows.

What it is. A path for whole tiles of 16 rows subtracts a little of the mean over the batch instead of the mean over
channels.

Why it looks fine. Tests use batches of 2, 3 or 5 rows.

What it does to results. Scores depend on which texts share a batch, in training and evaluation.

The sound version treats every row by itself.
"""

from litmus.nn import Attention


class MixesRows(Attention):
    def out_proj(self, y, x, ctx):
        out = super().out_proj(y, x, ctx)
        return out - 0.01 * out.mean(0, keepdim=True) if len(out) % 16 == 0 else out  # the fault: over dimension 0


recipe = {"base": "standard", "mixer": MixesRows, "about": "Specimen - rows that mix in batches of 16."}
