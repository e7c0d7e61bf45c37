"""Optimizers and learning-rate schedules: fused AdamW, or Muon for the matrices inside layers and AdamW for the rest.

Modules declare which of their parameters are such matrices (`hidden_matrices`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from litmus.model import Decoder
from litmus.nn import Mixer
from litmus.training.settings import TrainSettings


class Optimizers:
    """One or two optimizers over named fp32 parameters, used as one.

    AdamW: Loshchilov & Hutter 2019 (arXiv 1711.05101). Muon: Jordan et al. 2024, with its updates scaled to the
    size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], hidden: set[str], settings: TrainSettings) -> None:
        """`hidden`: names of the matrices that Muon updates if `settings` ask for it."""
        self._named = named
        by_muon = hidden if settings.optimizer == "muon" else set()
        rest = [p for name, p in named.items() if name not in by_muon]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._all: list[Optimizer] = []
        if groups:
            self._all.append(AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True))
        if by_muon:
            matrices = [named[name] for name in named if name in by_muon]
            single, stacked = ([p for p in matrices if (p.ndim == 2) is alone] for alone in (True, False))
            options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
            if single:
                self._all.append(Muon(single, adjust_lr_fn="match_rms_adamw", **options))
            if stacked:
                self._all.append(StackedMuon(stacked, **options))

    def step(self, lr: float) -> None:
        """Update the parameters at this learning rate and free the gradients."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state of the optimizers, by '<state>/<parameter>'."""
        return {
            f"{key}/{name}": value
            for name, parameter in self._named.items()
            for optimizer in self._all
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state()` returned."""
        for full_name, value in state.items():
            key, name = full_name.split("/", 1)
            parameter = self._named[name]
            for optimizer in self._all:
                if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
                    optimizer.state[parameter][key] = value.clone().to(parameter.device)


class StackedMuon(Optimizer):
    """Muon over stacks of matrices (E, out, in), such as those of experts: each matrix is orthogonalized by itself.

    Computes for each matrix what `torch.optim.Muon` computes, with updates scaled to the size of AdamW's, for a whole
    stack at once.
    """

    MOMENTUM, STEPS, COEFFICIENTS = 0.95, 5, (3.4445, -4.775, 2.0315)

    def __init__(self, stacks: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(stacks, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the stacks by their gradients."""
        for group in self.param_groups:
            for stack in group["params"]:
                if stack.grad is None:
                    continue
                state = self.state[stack]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(stack)
                state["momentum_buffer"].lerp_(stack.grad, 1 - self.MOMENTUM)
                update = self._orthogonal(stack.grad.lerp(state["momentum_buffer"], self.MOMENTUM))
                stack.mul_(1 - group["lr"] * group["weight_decay"])
                stack.add_(update, alpha=-group["lr"] * 0.2 * max(stack.shape[1:]) ** 0.5)

    def _orthogonal(self, stack: Tensor) -> Tensor:
        """Newton-Schulz steps towards the nearest orthogonal matrix of each matrix of (E, out, in), in bf16."""
        a, b, c = self.COEFFICIENTS
        tall = stack.shape[1] > stack.shape[2]
        x = (stack.mT if tall else stack).bfloat16()
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(self.STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x


def hidden_matrices(model: Decoder) -> set[str]:
    """The names of the matrices, and stacks of matrices, inside layers: the model's own and those of its objective.

    These are the two-dimensional parameters, unless the module that owns them lists the names of its matrices in
    `matrices`: routers list none, experts their stacks. Embeddings, positions and heads are not layers.
    """
    further = [module for module in model.objective.modules() if isinstance(module, Mixer)]
    found: set[int] = set()
    for layer in (*model.layers, *further):
        for module in layer.modules():
            declared = getattr(module, "matrices", None)
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 2 if declared is None else name in declared:
                    found.add(id(parameter))
    return {name for name, parameter in model.named_parameters() if id(parameter) in found}


def gradient_norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """The norm of all gradients together."""
    return torch.nn.utils.get_total_norm(gradients.values(), foreach=True)


def clip_gradients(parameters: Mapping[str, nn.Parameter], norm: float, max_norm: float | None) -> None:
    """Scale the gradients, of total norm `norm`, down to the norm `max_norm` if it is larger."""
    if max_norm is not None and norm > max_norm:
        total = torch.tensor(norm, device=next(iter(parameters.values())).device)
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), max_norm, total, foreach=True)


def lr_factor(fraction: float, settings: TrainSettings) -> float:
    """The learning rate at `fraction` (0 to 1) of the budget, as a multiple of the peak.

    A function of the budget, so that a budget in seconds anneals too. It rises linearly over `warmup`, then falls to
    `final_lr`: along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983), linearly, not at all, or linearly over
    the last `decay` only (wsd: Hu et al. 2024, arXiv 2404.06395).
    """
    if fraction < settings.warmup_fraction:
        return fraction / settings.warmup_fraction
    return settings.final_lr + (1 - settings.final_lr) * (1 - _decayed(fraction, settings))


def _decayed(fraction: float, settings: TrainSettings) -> float:
    """Progress from the peak to the final learning rate, 0 to 1."""
    if settings.schedule == "constant":
        return 0.0
    start = settings.warmup_fraction
    if settings.schedule == "wsd":
        start = max(start, 1 - settings.decay)
    linear = min(1.0, max(0.0, (fraction - start) / (1 - start)))
    if settings.schedule == "cosine":
        return (1 - math.cos(math.pi * linear)) / 2
    return linear
