"""Weights for decoding: cast to another precision, packed for the CPU's matrix kernels, or quantized to 8 bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.runtime.precision import cast_parameters

DecodePrecision = Literal["fp32", "bf16"]

INT8_KERNEL_MAX_TOKENS = 8
"""Up to this many tokens the int8 kernel is faster than widening the weights first."""

INT8_KERNEL_WIDTH = 16
"""Elements that torch's int8 kernel loads at a time (16 with AVX-512, 8 with AVX2 or NEON), regardless of where a row
ends."""

INT8_KERNEL_ALIGNMENT_BYTES = 32
"""AVX-512 loads INT8_KERNEL_WIDTH elements of bf16 from addresses with this alignment only."""

INT8_KERNEL_MAX_WEIGHTS = 2**31 - 1
"""The kernel's weight index has 32 bits."""

PACKED_TOKENS = 16
"""The number of tokens that packed weights are laid out for; fewer and more gain too (bench/decode_floor.py)."""

MIN_PACKED_FP32_WEIGHTS = 160_000
"""Smallest fp32 layer for which the packed kernel saves more than its call costs."""


def prepare(model: Decoder, precision: DecodePrecision | None = None, *, int8: bool = False) -> Decoder:
    """The model itself, or a copy for decoding: in another precision, and on a CPU with packed linear weights.

    int8 weights imply bf16 activations unless `precision` is fp32.
    """
    if int8:
        check_int8(model.device)
        precision = precision or "bf16"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision or "")
    if precision is not None and dtype is None:
        raise BadInput(f"precision {precision!r} is unknown; fp32 and bf16 are valid")
    same_dtype = dtype in (None, model.dtype)
    if same_dtype and not int8 and not can_pack(next(model.parameters())):
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())} if same_dtype else {}
    copied = copy.deepcopy(model, shared)
    if precision == "fp32":
        copied.float()
    elif not same_dtype:
        cast_parameters(copied, "bf16")
    if int8:
        _replace_linears(copied, Int8Linear)
    elif can_pack(next(copied.parameters())):
        _replace_linears(copied, PackedLinear, packing_pays)
    return copied


def _replace_linears(
    model: Decoder,
    replacement: type[Int8Linear] | type[PackedLinear],
    select: Callable[[nn.Linear], bool] = lambda linear: True,
) -> None:
    """Replace the selected linear layers, except those that their parent declares in `dense_weights`.

    The embedding stays, even where the head shares its weights.
    """
    for parent in list(model.modules()):
        dense = getattr(parent, "dense_weights", ())
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name not in dense and select(child):
                setattr(parent, name, replacement(child))


def check_int8(device: torch.device) -> None:
    """BadInput for a device without an int8 kernel."""
    if device.type != "cpu" or not hasattr(torch.ops.aten, "_weight_int8pack_mm"):
        raise BadInput(f"int8 decoding has a kernel for CPUs only, not for {device.type!r}; decode in bf16")


class Int8Linear(nn.Module):
    """y = (x W_qᵀ) · s with W ≈ W_q · s: 8-bit integers W_q and one scale s per output, max |W| / 127.

    The reference widens the weights; in bf16 and for a few tokens a kernel reads them as they are. It loads vectors of
    INT8_KERNEL_WIDTH inputs, so that the weights are zero-padded to a multiple of it.
    """

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight_int8", F.pad(rounded, (0, -self.in_features % INT8_KERNEL_WIDTH)))
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias
        self.has_kernel = self.weight_int8.numel() <= INT8_KERNEL_MAX_WEIGHTS

    @property
    def weight(self) -> Tensor:
        """The dequantized weight W_q · s (outputs, inputs)."""
        return self.weight_int8[:, : self.in_features].to(self.scale.dtype) * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        few = len(flat) <= INT8_KERNEL_MAX_TOKENS
        if x.dtype == self.scale.dtype == torch.bfloat16 and few and self.has_kernel:
            product = int8_product if torch.compiler.is_compiling() else _int8_product
            y = product(flat, self.weight_int8, self.scale)
        else:
            y = F.linear(flat, self.weight_int8[:, : self.in_features].to(x.dtype)) * self.scale
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)


def _int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (N, inputs) times weight (outputs, padded inputs), by the kernel.

    An x that is not padded, or starts at an unaligned address (a slice of a wider tensor), is copied: the kernel would
    read past its end or crash.
    """
    if x.shape[1] != weight.shape[1]:
        x = F.pad(x, (0, weight.shape[1] - x.shape[1]))
    x = x.contiguous()
    if x.data_ptr() % INT8_KERNEL_ALIGNMENT_BYTES:
        x = x.clone()
    return torch.ops.aten._weight_int8pack_mm(x, weight, scale)


@torch.library.custom_op("litmus::int8_product", mutates_args=())
def int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """`_int8_product` as one opaque operation: a compiler cannot check addresses."""
    return _int8_product(x, weight, scale)


@int8_product.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight))


def can_pack(like: Tensor) -> bool:
    """Whether weights of this dtype and device have packed kernels."""
    if like.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if like.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # not on a CPU with AVX2 alone, say
    return like.dtype == torch.float32


def packing_pays(linear: nn.Linear) -> bool:
    """Whether packing makes this layer faster for single tokens."""
    return linear.weight.dtype != torch.float32 or linear.weight.numel() >= MIN_PACKED_FP32_WEIGHTS


class PackedLinear(nn.Linear):
    """y = x Wᵀ + b with W reordered once; a plain product reorders it, or reads it slowly, for every token.

    The plain weight stays available, shared with the original layer.
    """

    packed: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_TOKENS)
        self.register_buffer("packed", packed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the compiler accepts the built-in product for constant weights only
            return packed_product(x, self.packed, self.bias, self.out_features)
        return _packed_product(x, self.packed, self.bias)


def _packed_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.custom_op("litmus::packed_product", mutates_args=())
def packed_product(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """x (..., inputs) times the packed weight with `outputs` rows, as one opaque operation for the compiler."""
    return _packed_product(x, weight, bias)


@packed_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)
