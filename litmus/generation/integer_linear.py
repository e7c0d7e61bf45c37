"""Linear layers with integer weights of 8 or 4 bits, for decoding on a CPU."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litmus.errors import BadInput
from litmus.model.packed import pack, round_groups, unpack

INT8_KERNEL_MAX_TOKENS = 8
"""Up to this many tokens the int8 kernel is faster than widening the weights first."""

INT8_KERNEL_WIDTH = 16
"""Elements that torch's int8 kernel loads at a time (16 with AVX-512, 8 with AVX2 or NEON), regardless of where a row
ends."""

INT8_KERNEL_ALIGNMENT_BYTES = 32
"""AVX-512 loads INT8_KERNEL_WIDTH elements of bf16 from addresses with this alignment only."""

INT4_KERNEL_MAX_TOKENS = 32
"""Up to this many tokens the int4 kernel is faster than widening the weights first."""

INT4_GROUPS = (64, 32)
"""Inputs that share a scale: the first that divides their number, as by default in `litmus quantize`, or the last."""

INT4_KERNEL_OUTPUTS = 16
"""The kernel needs a multiple of so many outputs."""

KERNEL_MAX_WEIGHTS = 2**31 - 1
"""The kernels' weight index has 32 bits."""

Kind = Literal["int8", "int4"]


def check_kernel(kind: Kind, device: torch.device) -> None:
    """BadInput for a device without a kernel for such weights."""
    kernel = {"int8": "_weight_int8pack_mm", "int4": "_weight_int4pack_mm_for_cpu"}[kind]
    if device.type != "cpu" or not hasattr(torch.ops.aten, kernel):
        raise BadInput(f"{kind} decoding has a kernel for CPUs only, not for {device.type!r}; decode in bf16")


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
        self.has_kernel = self.weight_int8.numel() <= KERNEL_MAX_WEIGHTS

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


class Int4Linear(nn.Module):
    """y = x Wᵀ with W ≈ scale · (code - 8) + middle: codes of 4 bits, a scale and a middle for each group of inputs.

    The rounding is that of `litmus quantize --bits 4`, whose weights therefore keep their codes; scales and middles are
    in bf16 here. The reference widens the weights; in bf16 and for a few tokens a kernel reads its own copy of the
    codes, whose layout depends on the CPU. Rows and columns are added where the kernel needs them.
    """

    codes: Tensor
    kernel_codes: Tensor
    scales: Tensor
    """(G, outputs, 2): scale and middle of each group."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype = linear.in_features, linear.out_features, linear.weight.dtype
        self.group = next((group for group in INT4_GROUPS if self.in_features % group == 0), INT4_GROUPS[-1])
        weight = linear.weight.detach().float()
        # A copy of the last column leaves the range of its group as it is; the inputs of added columns are zero.
        weight = F.pad(weight, (0, -self.in_features % self.group), mode="replicate")
        weight = F.pad(weight, (0, 0, 0, -self.out_features % INT4_KERNEL_OUTPUTS))
        codes, scale, minimum = round_groups(weight.unflatten(-1, (-1, self.group)), 4, "a linear layer")
        codes = codes.flatten(-2)
        self.register_buffer("codes", pack(codes, 4))
        kernel_codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        self.register_buffer("kernel_codes", kernel_codes, persistent=False)
        scales = torch.stack((scale.float(), minimum.float() + 8 * scale.float()), -1)
        self.register_buffer("scales", scales.bfloat16().transpose(0, 1).contiguous())
        self.bias = linear.bias
        self.has_kernel = codes.numel() <= KERNEL_MAX_WEIGHTS

    @property
    def weight(self) -> Tensor:
        """The dequantized weight (outputs, inputs), of the dtype that the layer had."""
        return self.widened(self.dtype)

    def widened(self, dtype: torch.dtype) -> Tensor:
        """The dequantized weight (outputs, inputs)."""
        codes = (unpack(self.codes, 4).to(dtype) - 8).unflatten(-1, (-1, self.group))
        scale, middle = self.scales.to(dtype).transpose(0, 1)[..., None].unbind(2)
        return (codes * scale + middle).flatten(-2)[: self.out_features, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if x.dtype == torch.bfloat16 and 0 < len(flat) <= INT4_KERNEL_MAX_TOKENS and self.has_kernel:
            padded = F.pad(flat, (0, -self.in_features % self.group)).contiguous()
            kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
            y = kernel(padded, self.kernel_codes, self.group, self.scales)[:, : self.out_features]
        else:
            y = F.linear(flat, self.widened(x.dtype))
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)
