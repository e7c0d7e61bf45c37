"""The head as a part: a mixture of softmaxes (Yang et al. 2018, arXiv 1711.03953)."""

import torch

from litmus.nn import LinearHead, linear


class MixtureOfSoftmaxes(LinearHead):
    """log sum_k pi_k(x) softmax(W (x + tanh(U_k x))), in fp32, as bf16 has too few digits for log probabilities.

    The paper has no x in it; without, the audit's batch is not learned in 250 steps.
    """

    def __init__(self, config, layer, components: int = 2):
        super().__init__(config, layer)
        self.contexts, self.prior = linear(layer.dim, components * layer.dim), linear(layer.dim, components)

    def forward(self, x):  # (..., dim) to (..., V)
        exact = torch.promote_types(x.dtype, torch.float32)
        contexts = x[..., None, :] + self.contexts(x).tanh().unflatten(-1, (-1, x.shape[-1]))  # (..., K, dim)
        log_p = super().forward(contexts).log_softmax(-1, dtype=exact)
        return (log_p + self.prior(x).log_softmax(-1, dtype=exact)[..., None]).logsumexp(-2)


recipe = {"base": "standard", "head": MixtureOfSoftmaxes, "about": "A mixture of two softmaxes as the head."}
