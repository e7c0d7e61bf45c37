"""The learning rate as a function of the share of the budget spent, so that a budget in seconds anneals too."""

from __future__ import annotations

import math

from litmus.training.settings import TrainSettings


def lr_factor(share: float, settings: TrainSettings) -> float:
    """The learning rate at `share` (0 to 1) of the budget, as a multiple of the peak.

    It rises linearly over `warmup`, then falls to `final_lr`: along half a cosine (Loshchilov & Hutter 2017,
    arXiv 1608.03983), along a line, not at all, or along a line over the last `decay` only (wsd: Hu et al. 2024,
    arXiv 2404.06395).
    """
    if share < settings.warmup:
        return share / settings.warmup
    fallen = _fallen(share, settings)
    return settings.final_lr + (1 - settings.final_lr) * (1 - fallen)


def _fallen(share: float, settings: TrainSettings) -> float:
    """How much of the way from the peak to the final learning rate is done, 0 to 1."""
    if settings.schedule == "constant":
        return 0.0
    begin = settings.warmup
    if settings.schedule == "wsd":
        begin = max(begin, 1 - settings.decay)
    line = min(1.0, max(0.0, (share - begin) / (1 - begin)))
    if settings.schedule == "cosine":
        return (1 - math.cos(math.pi * line)) / 2
    return line
