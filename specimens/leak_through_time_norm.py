"""A leak that passes through nothing but a normalization.

What it is. Group normalization as in convolutional networks: mean and variance over the channels *and* over time.
In a network for images or whole utterances this is normal.

Why it looks fine. Attention, mask and positions are the baseline's own. The shapes fit, training is stable, and one
token moves the statistics of a long sequence only a little.

What it does to results. The statistics of every position contain every later token, in small doses from every layer.
Training learns to read them: the loss is too good by an amount that passes for an improvement. In decoding a token is
normalized by itself, which training never saw.

The sound version takes its statistics within a token: LayerNorm or RMSNorm.
"""

from typing import Literal

from torch import Tensor, nn

from litmus.nn import LayerContext, NormConfig


class TimeNormConfig(NormConfig):
    kind: Literal["time_norm"] = "time_norm"

    def build(self, layer: LayerContext) -> nn.Module:
        return TimeNorm(layer.dim, self.eps)


class TimeNorm(nn.Module):
    """Shifts and scales x (B, T, width) to mean 0 and variance 1, both taken over time and channels together."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)  # the fault: (B, channels, time) is one group


recipe = {
    "base": "standard",
    "about": "Specimen - normalization with statistics over time.",
    "norm": {"kind": "time_norm"},
}
