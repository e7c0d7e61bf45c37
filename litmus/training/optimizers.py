"""The optimizers: fused AdamW for everything, or Muon for the matrices inside layers and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from litmus.training.settings import TrainSettings


class Optimizers:
    """One or two optimizers over named fp32 parameters, driven as one.

    AdamW: Loshchilov & Hutter 2019 (arXiv 1711.05101). Muon: Jordan et al. 2024, with its updates scaled to the
    size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], hidden: set[str], settings: TrainSettings) -> None:
        """`hidden` names the matrices that Muon takes when `settings` ask for it."""
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
            self._all.append(
                Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, lr: float) -> None:
        """Update the parameters by their gradients at this learning rate, then drop the gradients."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything the optimizers remember, as '<figure>/<parameter>'."""
        return {
            f"{figure}/{name}": value
            for name, parameter in self._named.items()
            for optimizer in self._all
            for figure, value in optimizer.state.get(parameter, {}).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember again what `state()` returned."""
        for key, value in state.items():
            figure, name = key.split("/", 1)
            parameter = self._named[name]
            for optimizer in self._all:
                if any(parameter is p for group in optimizer.param_groups for p in group["params"]):
                    optimizer.state[parameter][figure] = value.clone().to(parameter.device)


def hidden_matrices(model: nn.Module) -> set[str]:
    """The names of the matrices inside the model's layers: not embeddings, positions or the head."""
    return {name for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("layers.")}


def gradient_norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """The norm of all gradients together."""
    return torch.nn.utils.get_total_norm(gradients.values(), foreach=True)


def clip_gradients(parameters: Mapping[str, nn.Parameter], norm: float, largest: float | None) -> None:
    """Scale the gradients, of total norm `norm`, down to the norm `largest`; smaller ones stay as they are."""
    if largest is not None and norm > largest:
        total = torch.tensor(norm, device=next(iter(parameters.values())).device)
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), largest, total, foreach=True)
