"""The weights that decoding reads: in another precision, packed for a CPU's kernels, or in 8 bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.generation.packed import PackedLinear, can_pack, gains
from litmus.model import Decoder
from litmus.runtime.precision import cast_parameters

DecodePrecision = Literal["fp32", "bf16"]

FEW = 8
"""Up to so many tokens the product with 8-bit weights is faster than with weights widened before it."""

KERNEL_WIDTH = 16
"""Numbers that torch's kernel of 8-bit weights takes at a time (16 with AVX-512, 8 with AVX2 or NEON), without a look
at where a row ends."""

KERNEL_ALIGNMENT = 32
"""Bytes: AVX-512 loads KERNEL_WIDTH numbers of bf16 from such addresses only."""

KERNEL_WEIGHTS = 2**31 - 1
"""The kernel counts weights in 32 bits."""


def prepared(model: Decoder, precision: DecodePrecision | None = None, *, int8: bool = False) -> Decoder:
    """The model itself, or a copy for decoding: in another precision, and on a CPU with its linear weights packed.

    8-bit weights go with bf16 unless told fp32.
    """
    if int8:
        check_int8(model.embedding.weight.device)
        precision = precision or "bf16"
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision or "")
    if precision is not None and wanted is None:
        raise BadInput(f"precision {precision!r} is unknown; fp32 and bf16 are valid")
    same = wanted in (None, model.embedding.weight.dtype)
    if same and not int8 and not can_pack(model.embedding.weight):
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())} if same else {}
    copied = copy.deepcopy(model, shared)
    if precision == "fp32":
        copied.float()
    elif not same:
        cast_parameters(copied, "bf16")
    if int8:
        _replace_linears(copied, Int8Linear)
    elif can_pack(copied.embedding.weight):
        _replace_linears(copied, PackedLinear, gains)
    return copied


def check_int8(device: torch.device) -> None:
    """BadInput where there is no kernel that reads 8-bit weights."""
    if device.type != "cpu" or not hasattr(torch.ops.aten, "_weight_int8pack_mm"):
        raise BadInput(f"int8 decoding has a kernel for CPUs only, not for {device.type!r}; decode in bf16")


class Int8Linear(nn.Module):
    """y = (x W_qᵀ) · s with W ≈ W_q · s: 8-bit integers W_q and one scale s per output, max |W| / 127.

    The reference widens the weights; in bf16 and for a few tokens a kernel reads them as they are. It reads whole
    vectors of KERNEL_WIDTH inputs, so that columns of zeros fill the weights up to a multiple of it.
    """

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight_int8", F.pad(rounded, (0, -self.in_features % KERNEL_WIDTH)))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias
        self.has_kernel = self.weight_int8.numel() <= KERNEL_WEIGHTS

    @property
    def weight(self) -> Tensor:
        """The rounded weight W_q · s (outputs, inputs), for parts that read it as a matrix."""
        return self.weight_int8[:, : self.in_features].to(self.scale.dtype) * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        if x.dtype == self.scale.dtype == torch.bfloat16 and len(flat) <= FEW and self.has_kernel:
            product = int8_product if torch.compiler.is_compiling() else _int8_product
            y = product(flat, self.weight_int8, self.scale)
        else:
            y = F.linear(flat, self.weight_int8[:, : self.in_features].to(x.dtype)) * self.scale
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


def _int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (N, inputs) times weight (outputs, inputs filled up), by the kernel.

    Where x is not filled up, or begins at an odd address (a slice of something wider), the kernel would read past
    its end or crash: then it gets a copy.
    """
    if x.shape[1] != weight.shape[1]:
        x = F.pad(x, (0, weight.shape[1] - x.shape[1]))
    x = x.contiguous()
    if x.data_ptr() % KERNEL_ALIGNMENT:
        x = x.clone()
    return torch.ops.aten._weight_int8pack_mm(x, weight, scale)


@torch.library.custom_op("litmus::int8_product", mutates_args=())
def int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The same as one operation that a compiler leaves whole: it knows no addresses."""
    return _int8_product(x, weight, scale)


@int8_product.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _replace_linears(
    model: Decoder,
    by: type[Int8Linear] | type[PackedLinear],
    wanted: Callable[[nn.Linear], bool] = lambda linear: True,
) -> None:
    """Replace the linear layers that are `wanted`, except those that their parent declares in `dense_weights`.

    The embedding stays, even where the head shares its weights.
    """
    for parent in list(model.modules()):
        dense = getattr(parent, "dense_weights", ())
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name not in dense and wanted(child):
                setattr(parent, name, by(child))
