"""Linear layers whose weights lie in memory as a CPU's matrix kernels read them, for few tokens at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOKENS = 16
"""For how many tokens at a time weights are laid out; more and fewer also gain (bench/decode_floor.py)."""

LEAST_FP32 = 160_000
"""Weights of a layer in fp32 from which on the call to those kernels costs less than they save."""


def can_pack(like: Tensor) -> bool:
    """Whether weights of this type and device have such kernels."""
    if like.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if like.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # a CPU with AVX2 alone, say, has none
    return like.dtype == torch.float32


def gains(linear: nn.Linear) -> bool:
    """Whether packing makes this layer faster for single tokens."""
    return linear.weight.dtype != torch.float32 or linear.weight.numel() >= LEAST_FP32


class PackedLinear(nn.Linear):
    """y = x Wᵀ + b with W rearranged once: a plain product rearranges it anew, or reads it slowly, for every token.

    The plain weight stays, shared with the layer it is made from: a part may read it as a matrix.
    """

    packed: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TOKENS)
        self.register_buffer("packed", packed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # which knows this product only of weights that are constants to it
            return packed_product(x, self.packed, self.bias, self.out_features)
        return _product(x, self.packed, self.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.custom_op("litmus::packed_product", mutates_args=())
def packed_product(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """x (..., inputs) times the packed weight of so many outputs, as one operation that a compiler leaves whole."""
    return _product(x, weight, bias)


@packed_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)
