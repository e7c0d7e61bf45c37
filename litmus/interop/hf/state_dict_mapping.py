"""The correspondence of Litmus's tensors and published ones, in both directions, so that a round trip is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from litmus.errors import BadInput

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""The dtypes that are read and written; integers and fp8 mean nothing without their scales."""


@dataclass(frozen=True)
class TensorMapping:
    """One tensor of Litmus and the published tensors with the same elements.

    split: our tensor as theirs, in the order of `theirs`; join: the inverse. copies: further names that the first of
    theirs may be stored under; with `write_copies` they are also written.
    """

    ours: str
    theirs: tuple[str, ...]
    split: Callable[[Tensor], Sequence[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]
    copies: tuple[str, ...] = ()
    write_copies: bool = False


def same(ours: str, theirs: str, *, copies: Sequence[str] = (), write_copies: bool = False) -> TensorMapping:
    """The same tensor by another name."""
    return TensorMapping(ours, (theirs,), lambda t: [t], lambda ts: ts[0], tuple(copies), write_copies)


def transposed(ours: str, theirs: str) -> TensorMapping:
    """A matrix that is published as (inputs, outputs)."""
    return TensorMapping(ours, (theirs,), lambda t: [t.mT], lambda ts: ts[0].mT)


def stacked_rows(ours: str, theirs: Sequence[str], sizes: Sequence[int]) -> TensorMapping:
    """One matrix (or bias) of ours whose rows are the concatenated rows of several of theirs."""
    return TensorMapping(ours, tuple(theirs), lambda t: t.split(list(sizes)), lambda ts: torch.cat(list(ts)))


def per_expert(ours: str, theirs: Sequence[Sequence[str]]) -> TensorMapping:
    """Weights of all experts in one tensor (E, rows, columns); theirs[e] name the equal chunks of expert e's rows."""
    chunks = len(theirs[0])

    def split(stack: Tensor) -> list[Tensor]:
        return [part for expert in stack for part in expert.chunk(chunks)]

    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.cat(list(parts[i : i + chunks])) for i in range(0, len(parts), chunks)])

    return TensorMapping(ours, tuple(name for expert in theirs for name in expert), split, join)


def reordered(ours: str, theirs: str, order: Sequence[int], *, dim: int = 0) -> TensorMapping:
    """The same elements with row (or column) i of theirs at `order[i]` of ours."""
    forward = torch.tensor(order)
    inverse = torch.empty_like(forward)
    inverse[forward] = torch.arange(len(forward))
    return TensorMapping(
        ours,
        (theirs,),
        lambda t: [t.index_select(dim, forward.to(t.device))],
        lambda ts: ts[0].index_select(dim, inverse.to(ts[0].device)),
    )


def _scale(name: str, scales: Mapping[str, float]) -> float:
    """The scale of a published tensor."""
    return next((scale for suffix, scale in scales.items() if name.endswith(suffix)), 1.0)


def to_hf(
    mapping: Iterable[TensorMapping], ours: Mapping[str, Tensor], scales: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Tensor]:
    """The published tensors, each with memory of its own, divided by their `scales`."""
    written: dict[str, Tensor] = {}
    for tensor in mapping:
        parts = list(tensor.split(ours[tensor.ours].detach()))
        names = list(tensor.theirs)
        if tensor.write_copies:
            names += tensor.copies
            parts += [parts[0]] * len(tensor.copies)
        written |= {
            name: part.clone(memory_format=torch.contiguous_format) for name, part in zip(names, parts, strict=True)
        }
    return {name: t / _scale(name, scales) if _scale(name, scales) != 1 else t for name, t in written.items()}


def from_hf(
    mapping: Sequence[TensorMapping],
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, Tensor],
    origin: str,
    scales: Mapping[str, float],
) -> dict[str, Tensor]:
    """Our tensors in fp32 from theirs, multiplied by their `scales`; `shapes` are our tensors on the meta device.

    BadInput counts missing, extra and misshapen tensors and names the first five; also for copies that are not equal,
    for integer or fp8 tensors, and for weights that are not finite.
    """
    _check(mapping, theirs, shapes, origin)
    values = {name: tensor.float() for name, tensor in theirs.items()}
    values |= {name: _scale(name, scales) * values[name] for name in values if _scale(name, scales) != 1}
    if broken := [name for name, tensor in values.items() if not bool(tensor.isfinite().all())]:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise BadInput(f"{origin}: {broken[0]}{more} holds NaN or infinity in fp32; a model's weights are finite")
    return {tensor.ours: tensor.join([values[name] for name in tensor.theirs]).contiguous() for tensor in mapping}


def _check(
    mapping: Sequence[TensorMapping], theirs: Mapping[str, Tensor], shapes: Mapping[str, Tensor], origin: str
) -> None:
    expected: dict[str, torch.Size] = {}
    optional: dict[str, str] = {}
    for tensor in mapping:
        parts = tensor.split(shapes[tensor.ours])
        expected |= {name: part.shape for name, part in zip(tensor.theirs, parts, strict=True)}
        optional |= dict.fromkeys(tensor.copies, tensor.theirs[0])
    shape_of = {**expected, **{name: expected[first] for name, first in optional.items()}}
    coded = [f"{name} ({tensor.dtype})" for name, tensor in theirs.items() if tensor.dtype not in DTYPES.values()]
    if coded:
        raise BadInput(
            f"{origin} holds {len(coded)} tensors that are quantized, and nothing says how to read them: "
            f"{', '.join(coded[:5])}; bf16, fp16 or fp32 ones can be read"
        )
    missing = [f"{name} is missing" for name in expected if name not in theirs]
    extra = [f"{name} is extra" for name in theirs if name not in shape_of]
    misshapen = [
        f"{name} is {tuple(theirs[name].shape)}, not {tuple(shape)}"
        for name, shape in shape_of.items()
        if name in theirs and theirs[name].shape != shape
    ]
    faults = [*missing, *extra, *misshapen]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BadInput(
            f"{origin} does not fit its config.json: {len(missing)} tensors are missing, {len(extra)} extra and "
            f"{len(misshapen)} misshapen: {'; '.join(faults[:5])}{more}"
        )
    for copy, first in optional.items():
        if copy in theirs and not torch.equal(theirs[copy], theirs[first]):
            raise BadInput(f"{origin}: {copy} differs from {first}, and Litmus has one tensor for both")
