"""A leak on a path for sequences of more than 150 tokens only.

What it is. Beyond 150 tokens, attention is computed with a mask of whole chunks of 32 tokens, "for speed".

Why it looks fine. On every test of up to 150 tokens this is plain causal attention.

What it does to results. Training and validation at full length leak; short texts do not.

The sound version has no other mask for long sequences. The audit finds the number in the code and tries lengths around
it.
"""

from litmus.nn import Attention


class ChunkedBeyond(Attention):
    def attention_mask(self, ctx):
        plain = ctx.cache is not None or ctx.padding_mask is not None or ctx.document_ids is not None
        if plain or ctx.positions.shape[1] <= 150:
            return super().attention_mask(ctx)
        chunk = ctx.positions // 32
        return chunk[:, None, None] <= chunk[:, None, :, None]  # the fault: a token sees its whole chunk


recipe = {"base": "standard", "mixer": ChunkedBeyond, "about": "Specimen - a leak beyond 150 tokens."}
