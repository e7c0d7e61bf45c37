"""Weights for decoding: cast to another precision, packed for the CPU's matrix kernels, or in 8 or 4 bits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from litmus.errors import BadInput
from litmus.generation.integer_linear import Int4Linear, Int8Linear, check_kernel
from litmus.model import Decoder
from litmus.runtime.precision import cast_parameters

DecodePrecision = Literal["fp32", "bf16"]

PACKED_TOKENS = 16
"""The number of tokens that packed weights are laid out for; fewer and more gain too (bench/decode_floor.py)."""

MIN_PACKED_FP32_WEIGHTS = 160_000
"""Smallest fp32 layer for which the packed kernel saves more than its call costs."""


def prepare(
    model: Decoder, precision: DecodePrecision | None = None, *, int8: bool = False, int4: bool = False
) -> Decoder:
    """The model itself, or a copy for decoding: in another precision, and on a CPU with packed linear weights.

    int8 and int4 store linear weights in so many bits, where int4 leaves 8 for the head. They imply bf16 activations
    unless `precision` is fp32.
    """
    if int8 and int4:
        raise BadInput("int8 and int4 exclude each other; choose one")
    if int8 or int4:
        check_kernel("int4" if int4 else "int8", model.device)
        precision = precision or "bf16"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision or "")
    if precision is not None and dtype is None:
        raise BadInput(f"precision {precision!r} is unknown; fp32 and bf16 are valid")
    same_dtype = dtype in (None, model.dtype)
    if same_dtype and not (int8 or int4) and not can_pack(next(model.parameters())):
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())} if same_dtype else {}
    copied = copy.deepcopy(model, shared)
    if precision == "fp32":
        copied.float()
    elif not same_dtype:
        cast_parameters(copied, "bf16")
    if int8:
        _replace_linears(copied, Int8Linear)
    elif int4:
        in_head = set(copied.head.modules())
        _replace_linears(copied, lambda linear: (Int8Linear if linear in in_head else Int4Linear)(linear))
    elif can_pack(next(copied.parameters())):
        _replace_linears(copied, PackedLinear, packing_pays)
    return copied


def _replace_linears(
    model: Decoder,
    replacement: Callable[[nn.Linear], nn.Module],
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
