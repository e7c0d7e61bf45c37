"""Number formats of weights and matrix products: exact fp32, medium, bf16 autocast, bf16 with fp32 master weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "medium", "bf16-autocast", "bf16"]

DESCRIPTIONS: dict[Precision, str] = {
    "fp32": "exact fp32",
    "medium": "fp32 with faster, less exact matrix products",
    "bf16-autocast": "fp32 weights, matrix products in bf16",
    "bf16": "bf16 weights and activations, fp32 master weights",
}


def best_precision(device: torch.device) -> Precision:
    """bf16 where the device multiplies it natively, else exact fp32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        abilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        native = bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return "bf16" if native else "fp32"


def resolve_precision(precision: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The precision that a setting stands for on a device."""
    return best_precision(device) if precision == "auto" else precision


@contextlib.contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Set how products of fp32 matrices are computed in this block, forward and backward: exactly or as "medium"."""
    before = torch.get_float32_matmul_precision()
    fast = precision == "medium" or (not torch.cuda.is_available() and medium_is_exact())
    torch.set_float32_matmul_precision("medium" if fast else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def medium_is_exact() -> bool:
    """Whether this CPU computes "medium" products in full fp32, tested on numbers that bf16 would round.

    "medium" uses oneDNN, which without AMX has no faster type to use, but often faster kernels.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        product = torch.full((256, 256), 1 + 2**-12) @ torch.ones(256, 256)
    finally:
        torch.set_float32_matmul_precision(before)
    return bool((product == 256 + 2**-4).all())


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Autocast of matrix products to bf16 if the precision asks for it; for forward passes only."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-autocast")


def cast_parameters(model: nn.Module, precision: Precision) -> None:
    """Convert the parameters of an fp32 model to the dtype that `precision` computes with, in place.

    Buffers keep their dtype: a table of angles or a router's bias needs more than 8 bits of mantissa.
    """
    if precision == "bf16":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()


class MasterWeights:
    """The fp32 parameters that the optimizer updates: the model's own, or fp32 copies of a bf16 model's.

    A bf16 weight of 1 cannot change by less than 0.004, more than most updates; the fp32 copy adds them up. Call
    `accumulate_gradients` after each backward pass and `copy_to_model` after each update; both do nothing for an fp32
    model.

    named: the fp32 parameters by name, those that require no gradient left out.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        if precision == "bf16":
            masters = {name: nn.Parameter(p.detach().clone()) for name, p in self.named.items()}
            self._pairs = list(zip(self.named.values(), masters.values(), strict=True))
            self.named = masters
        cast_parameters(model, precision)

    def accumulate_gradients(self) -> None:
        """Move the gradients of one backward pass to the fp32 parameters, added to those already there."""
        for parameter, master in self._pairs:
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy the updated fp32 parameters into the model's bf16 parameters."""
        if self._pairs:
            torch._foreach_copy_([parameter for parameter, _ in self._pairs], [master for _, master in self._pairs])

    def gradients(self) -> dict[str, Tensor]:
        """The fp32 gradients by parameter name; parameters without a gradient are left out."""
        return {name: p.grad for name, p in self.named.items() if p.grad is not None}
