"""How numbers are held and multiplied: exact fp32, medium, bf16 autocast, bf16 with fp32 master weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "medium", "bf16-autocast", "bf16"]

MEANING: dict[Precision, str] = {
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


@contextlib.contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Within this block products of fp32 matrices, forward and backward, are exact or medium."""
    before = torch.get_float32_matmul_precision()
    fast = precision == "medium" or (not torch.cuda.is_available() and medium_is_exact())
    torch.set_float32_matmul_precision("medium" if fast else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def medium_is_exact() -> bool:
    """Whether this CPU's "medium" products are full fp32 all the same, found by multiplying what bf16 would round.

    "medium" hands them to oneDNN, which without AMX has no faster type to use, but often faster kernels.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        product = torch.full((256, 256), 1 + 2**-12) @ torch.ones(256, 256)
    finally:
        torch.set_float32_matmul_precision(before)
    return bool((product == 256 + 2**-4).all())


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """For forward passes only: matrix products in bf16 when that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-autocast")


def cast_for(model: nn.Module, precision: Precision) -> None:
    """Hold the parameters of an fp32 model the way `precision` computes with them.

    Buffers keep their dtype: a table of angles or a router's bias does not survive 8 bits of mantissa.
    """
    if precision == "bf16":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()


class Weights:
    """The fp32 parameters that the optimizer updates: the model's own, or the masters of a bf16 model.

    A bf16 weight of 1 cannot be changed by less than 0.004, more than most updates; the masters remember them.
    After each backward `collect`, after each update `publish`; both do nothing when the model holds fp32 itself.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        if precision == "bf16":
            masters = {name: nn.Parameter(p.detach().clone()) for name, p in self.named.items()}
            self._pairs = list(zip(self.named.values(), masters.values(), strict=True))
            self.named = masters
        cast_for(model, precision)

    def collect(self) -> None:
        """Add the gradients of one backward pass to those of the fp32 parameters and free them."""
        for held, master in self._pairs:
            if held.grad is None:
                continue
            if master.grad is None:
                master.grad = held.grad.float()
            else:
                master.grad += held.grad
            held.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Let the model compute with the updated weights."""
        if self._pairs:
            torch._foreach_copy_([held for held, _ in self._pairs], [master for _, master in self._pairs])

    def gradients(self) -> dict[str, Tensor]:
        """The fp32 gradients by parameter name; parameters that no gradient reached are left out."""
        return {name: p.grad for name, p in self.named.items() if p.grad is not None}
