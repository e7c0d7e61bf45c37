"""Groupwise quantization of weights by clipping, rounding and restoring, and of activations while a model runs.

Yu et al. 2024, arXiv 2411.07191, section 4: clip the outliers, round to nearest, and restore the super weight exactly.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from litmus.errors import BadInput, shown
from litmus.model import Decoder
from litmus.model.packed import BITS, PER_BLOCK, PackedWeight, half_scale, pack, round_groups
from litmus.model.storage import weights

Group = int | Literal["auto", "channel", "tensor"]
AUTO_GROUP, MIN_AUTO_GROUP = 64, 16


@dataclass(frozen=True)
class QuantizeSettings:
    """bits: of a weight. group: inputs that share a scale, or all inputs of an output channel, or a whole matrix; auto:
    `auto_group` of each width.

    symmetric: codes around 0, which keep zeros exact; otherwise from the smallest to the largest weight of a group.
    clip: z, so that weights are clipped to mean |w| + z · std |w| of their group. embedding_bits: of the embedding and
    of the head; 16 stores them in bf16.
    """

    bits: int = 4
    group: Group = "auto"
    symmetric: bool = False
    clip: float | None = None
    embedding_bits: int = 8

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise BadInput(f"--bits = {self.bits} is not supported; 8, 4 and 3 are")
        if self.embedding_bits not in (*BITS, 16):
            raise BadInput(f"--embedding-bits = {self.embedding_bits} is not supported; 16, 8, 4 and 3 are")
        if isinstance(self.group, int) and self.group < 1:
            raise BadInput(f"--group = {self.group} is not valid; it must be at least 1")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise BadInput(f"--clip = {self.clip:g} is not valid; it must be above 0 and finite, such as 9")


def parse_group(text: str) -> Group:
    """The group that --group names; BadInput for anything but a number, auto, channel and tensor."""
    if text == "auto":
        return "auto"
    if text == "channel":
        return "channel"
    if text == "tensor":
        return "tensor"
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    raise BadInput(f"--group = {shown(text)} is not valid; it must be a number of inputs, auto, channel or tensor")


def auto_group(width: int) -> int:
    """AUTO_GROUP, or the largest power of two below it that divides the width; below MIN_AUTO_GROUP the whole width."""
    group = math.gcd(AUTO_GROUP, width)
    return group if group >= MIN_AUTO_GROUP else width


Kept = Mapping[str, Collection[tuple[int, ...]]]
"""Positions of weights that stay exact, by the parameter's name."""


@dataclass(frozen=True)
class Quantized:
    """The tensors to store, and the number of parameters in each: quantized by bits, and kept by reason."""

    tensors: dict[str, Tensor]
    quantized: dict[int, int]
    kept: dict[str, int]

    @property
    def share(self) -> float:
        """The fraction of the parameters that is quantized."""
        whole = sum(self.quantized.values())
        return whole / (whole + sum(self.kept.values()))


def quantize(model: Decoder, settings: QuantizeSettings, kept: Kept | None = None) -> Quantized:
    """Quantize every matrix of linear maps and experts, the embedding and the head; the model stays the same.

    BadInput names a matrix whose width the group, or 8 below 8 bits, does not divide.
    """
    kept = kept or {}
    matrices, tables = linear_weights(model), _tables(model)
    tensors: dict[str, Tensor] = {}
    counts: dict[int, int] = {}
    others = {"norms, biases, routers and other vectors": 0, "embedding and head, in bf16": 0}
    for name, tensor in weights(model).items():
        bits = settings.embedding_bits if name in tables else settings.bits
        if name not in matrices and name not in tables:
            others["norms, biases, routers and other vectors"] += tensor.numel()
            tensors[name] = tensor
        elif bits == 16:
            others["embedding and head, in bf16"] += tensor.numel()
            tensors[name] = tensor.to(torch.bfloat16)
        else:
            counts[bits] = counts.get(bits, 0) + tensor.numel()
            packed = quantized_weight(tensor, bits, settings, kept.get(name, ()), name)
            tensors.update(packed.tensors(name))
    return Quantized(tensors, counts, {reason: count for reason, count in others.items() if count})


def linear_weights(model: Decoder) -> set[str]:
    """Names of the matrices (O, I) of linear maps and of their stacks (E, O, I), besides the embedding and the head."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found.add(f"{name}.weight")
        found |= {f"{name}.{matrix}" for matrix in getattr(module, "matrices", ())}
    return (found & set(weights(model))) - _tables(model)


def _tables(model: Decoder) -> set[str]:
    """Names of the matrices of the embedding and of the head, which may be one."""
    return {
        name
        for name, tensor in weights(model).items()
        if name.startswith(("embedding.", "head.")) and name.endswith("weight") and tensor.ndim == 2
    }


def quantized_weight(
    weight: Tensor,
    bits: int,
    settings: QuantizeSettings,
    kept: Collection[tuple[int, ...]] = (),
    name: str = "the weight",
) -> PackedWeight:
    """The weight (..., O, I) packed, by `round_groups` or around 0.

    Weights in `kept` take no part in the range of their group, where the median stands for them.
    """
    weight = weight.detach().float().cpu()
    width = weight.shape[-1]
    group = settings.group if isinstance(settings.group, int) else width
    if settings.group == "auto":
        group = auto_group(width)
    if width % group:
        raise BadInput(f"--group = {group} does not divide the width {width} of {name}; take a divisor, or channel")
    if bits < 8 and width % PER_BLOCK:
        raise BadInput(f"{name} has a width of {width}, which {PER_BLOCK} does not divide; 8 bits are valid for it")
    index = torch.tensor([_flat(place, weight.shape) for place in kept], dtype=torch.long)
    values = weight.flatten()[index]
    grouped = (
        weight.flatten(-2)[..., None, None, :] if settings.group == "tensor" else weight.unflatten(-1, (-1, group))
    )
    plain = grouped.clone()
    flat = plain.view(-1)
    for at in index.tolist():
        flat[at] = plain.view(-1, plain.shape[-1])[at // plain.shape[-1]].median()
    if settings.clip is not None:
        size = plain.abs()
        bound = size.mean(-1, keepdim=True) + settings.clip * size.std(-1, keepdim=True, correction=0)
        plain = plain.clamp(-bound, bound)
    if settings.symmetric:
        largest = 2 ** (bits - 1) - 1
        scale = half_scale(plain.abs().amax(-1) / largest, name)
        minimum = None
        codes = (plain / scale.float()[..., None]).round().clamp(-largest, largest) + largest
    else:
        codes, scale, minimum = round_groups(plain, bits, name)
    return PackedWeight(pack(codes.reshape(weight.shape), bits), bits, scale, minimum, index, values)


def _flat(place: tuple[int, ...], shape: torch.Size) -> int:
    position = 0
    for at, size in zip(place, shape, strict=True):
        position = position * size + at
    return position


@contextlib.contextmanager
def quantized_activations(model: Decoder, bits: int = 8, *, protect: bool = False) -> Iterator[None]:
    """In this block the input of every linear layer is rounded to `bits` bits, as an integer kernel would see it.

    One symmetric scale per token. With `protect` the largest activation of each token is replaced by the median before
    the scale is taken, and restored after rounding (Yu et al. 2024, section 4.1). Speed does not change: the rounding
    is simulated.
    """
    largest = 2 ** (bits - 1) - 1

    def rounded(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        plain = x
        if protect:
            spike = x.abs().argmax(-1, keepdim=True)
            plain = x.scatter(-1, spike, x.median(-1, keepdim=True).values)
        scale = plain.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
        result = (plain / scale).round() * scale
        return (result.scatter(-1, spike, x.gather(-1, spike)) if protect else result, *inputs[1:])

    handles = [
        module.register_forward_pre_hook(rounded) for module in model.layers.modules() if isinstance(module, nn.Linear)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
