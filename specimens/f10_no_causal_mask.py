"""F10 - A causal language model without a causal mask.

What was published. transformers#48745: since version 5.9, four "CausalLM" classes whose attention is that of an encoder
build no causal mask.

Why it looked fine. Weights load, shapes are right, and generation with a cache works: there, no later token exists.

What it does to results. In training and scoring every token reads all others. Its loss on random tokens is below ln V,
which no causal model's can.

The sound version leaves the mask as it is.
"""

from litmus.nn import Attention


class NoCausalMask(Attention):
    def attention_mask(self, ctx):
        return "all" if ctx.cache is None else super().attention_mask(ctx)  # the fault


recipe = {"base": "standard", "mixer": NoCausalMask, "about": "Specimen F10 - attention without a causal mask."}
