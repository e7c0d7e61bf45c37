"""Weights in 8, 4 or 3 bits as they are stored: packed integers, scales of groups, and single weights kept exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from litmus.errors import BadInput

BITS = (8, 4, 3)
PER_BLOCK = 8
"""Codes that are packed together, into as many bytes as a code has bits."""

_PARTS = ("codes", "bits", "scale", "minimum", "kept_index", "kept_value")


@dataclass(frozen=True)
class PackedWeight:
    """A weight (..., O, I) as w = scale · code + minimum, one scale and one minimum for each group of I / G inputs.

    codes: uint8 (..., O, I · bits / 8). scale: fp16 (..., O, G), or (..., 1, 1) for one scale of the whole matrix.
    minimum: like scale, or None for symmetric codes, whose minimum is -scale · (2^(bits - 1) - 1). kept: positions in
    the flattened weight, int64 (K,), whose values, fp32 (K,), are stored exactly.
    """

    codes: Tensor
    bits: int
    scale: Tensor
    minimum: Tensor | None
    kept_index: Tensor
    kept_value: Tensor

    def dequantized(self) -> Tensor:
        """The weight (..., O, I) in fp32."""
        integers = unpack(self.codes, self.bits).float()
        scale = self.scale.float()
        minimum = -scale * (2 ** (self.bits - 1) - 1) if self.minimum is None else self.minimum.float()
        grouped = integers.unflatten(-1, (scale.shape[-1], -1))
        weight = (grouped * scale[..., None] + minimum[..., None]).flatten(-2)
        weight.view(-1)[self.kept_index] = self.kept_value.float()
        return weight

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors that are stored for the weight `name`."""
        parts = {**vars(self), "bits": torch.tensor(self.bits, dtype=torch.uint8)}
        return {f"{name}.{part}": value for part, value in parts.items() if value is not None and value.numel()}


def round_groups(grouped: Tensor, bits: int, name: str = "the weight") -> tuple[Tensor, Tensor, Tensor]:
    """Codes (..., G, I / G), scales (..., G) and minima (..., G) in fp16 of groups (..., G, I / G) of weights in fp32.

    code = round((w - minimum) / scale), scale = (maximum - minimum) / (2^bits - 1). BadInput for what fp16 cannot hold.
    """
    minimum = grouped.amin(-1).half()
    if not minimum.isfinite().all():
        raise BadInput(f"{name} has weights as low as {float(grouped.min()):.3g}, too large to quantize")
    scale = half_scale((grouped.amax(-1) - grouped.amin(-1)) / (2**bits - 1), name)
    codes = ((grouped - minimum.float()[..., None]) / scale.float()[..., None]).round().clamp(0, 2**bits - 1)
    return codes, scale, minimum


def half_scale(scale: Tensor, name: str) -> Tensor:
    """The scale in fp16, at least its smallest positive number; BadInput if it is too large for it."""
    half = scale.clamp(min=2.0**-24).half()
    if not half.isfinite().all():
        raise BadInput(f"{name} has weights of up to {float(scale.max()):.3g} times a step, too large to quantize")
    return half


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (..., I) from 0 to 2^bits - 1 as uint8 (..., I · bits / 8); below 8 bits, 8 must divide I."""
    if bits == 8:
        return codes.to(torch.uint8)
    blocks = codes.long().unflatten(-1, (-1, PER_BLOCK))
    words = (blocks << torch.arange(0, bits * PER_BLOCK, bits)).sum(-1, keepdim=True)
    return (words >> torch.arange(0, 8 * bits, 8) & 255).to(torch.uint8).flatten(-2)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`, as uint8."""
    if bits == 8:
        return packed
    if bits == 4:  # what the lines below give, faster
        return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    blocks = packed.long().unflatten(-1, (-1, bits))
    words = (blocks << torch.arange(0, 8 * bits, 8)).sum(-1, keepdim=True)
    return (words >> torch.arange(0, bits * PER_BLOCK, bits) & (2**bits - 1)).to(torch.uint8).flatten(-2)


def dequantized(tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """The tensors of a file with every packed weight dequantized; BadInput if the parts of one do not fit."""
    names = [name.removesuffix(".codes") for name in tensors if name.endswith(".codes")]
    if not names:
        return dict(tensors)
    own = {f"{name}.{part}" for name in names for part in _PARTS}
    plain = {name: tensor for name, tensor in tensors.items() if name not in own}
    for name in names:
        parts = {part: tensors.get(f"{name}.{part}") for part in _PARTS}
        try:
            plain[name] = _packed(parts).dequantized()
        except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
            raise BadInput(f"{origin} holds a packed weight {name} whose parts do not fit together") from None
    return plain


def _packed(parts: Mapping[str, Tensor | None]) -> PackedWeight:
    codes, bits, scale = parts["codes"], parts["bits"], parts["scale"]
    if codes is None or bits is None or scale is None or codes.dtype != torch.uint8 or int(bits) not in BITS:
        raise ValueError("a part is missing, or of another type")
    index, value = parts["kept_index"], parts["kept_value"]
    if index is None or value is None:
        index, value = torch.empty(0, dtype=torch.long), torch.empty(0)
    return PackedWeight(codes, int(bits), scale, parts["minimum"], index, value)
