"""F9 - A learned filter in the frequency domain that wraps around.

What was published. The third variant in nanochat#844: tokens are mixed by multiplying their Fourier transform by a
learned filter, in T log T.

Why it looked fine. The filter is initialized as one that decays with distance, and the validation loss falls to 0.0018.

What it does to results. A product of transforms is a circular convolution: the first tokens read the last ones.

The sound version pads the text with as many zeros, so that nothing wraps around.
"""

import torch
from torch import nn


class CircularFilter(nn.Module):
    """y = F⁻¹(F(x) · F(h)) with one filter h of `taps` elements per channel."""

    def __init__(self, dim, taps: int = 16):
        super().__init__()
        decay = torch.exp(-torch.arange(taps) / 4.0)[:, None]
        self.filter = nn.Parameter(decay * torch.randn(taps, dim))
        self.map = nn.Linear(dim, dim, bias=False)

    def forward(self, x):  # (B, T, dim) of whole texts
        length = x.shape[1]
        size = length  # the fault: length + len(self.filter) has room for what is now wrapped around
        taps = self.filter[:length]
        y = torch.fft.irfft(torch.fft.rfft(x, size, dim=1) * torch.fft.rfft(taps, size, dim=0), size, dim=1)
        return self.map(x + y[:, :length])


recipe = {"base": "standard", "mixer": CircularFilter, "about": "Specimen F9 - a filter that wraps around."}
