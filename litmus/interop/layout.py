"""How tensors of Litmus stand in another format: each rule reads in both directions, so a round trip is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from litmus.errors import BadInput

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""The number formats in which weights are read and written; integers and fp8 mean nothing without their scales."""


@dataclass(frozen=True)
class Rule:
    """One tensor of Litmus and the tensors that hold the same numbers elsewhere.

    split: our tensor as theirs, in the order of `theirs`. join: back again.
    copies: further names under which the first of theirs may stand as well; `write_copies` says whether we write them.
    """

    ours: str
    theirs: tuple[str, ...]
    split: Callable[[Tensor], Sequence[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]
    copies: tuple[str, ...] = ()
    write_copies: bool = False


def same(ours: str, theirs: str, *, copies: Sequence[str] = (), write_copies: bool = False) -> Rule:
    """The same tensor by another name."""
    return Rule(ours, (theirs,), lambda t: [t], lambda ts: ts[0], tuple(copies), write_copies)


def transposed(ours: str, theirs: str) -> Rule:
    """A matrix that the other format stores as (inputs, outputs)."""
    return Rule(ours, (theirs,), lambda t: [t.mT], lambda ts: ts[0].mT)


def stacked_rows(ours: str, theirs: Sequence[str], sizes: Sequence[int]) -> Rule:
    """One matrix (or bias) of ours whose rows are several of theirs, one below the other."""
    return Rule(ours, tuple(theirs), lambda t: t.split(list(sizes)), lambda ts: torch.cat(list(ts)))


def per_expert(ours: str, theirs: Sequence[Sequence[str]]) -> Rule:
    """Weights of all experts in one tensor (E, rows, columns); theirs[e] name the equal shares of expert e's rows."""
    shares = len(theirs[0])

    def split(stack: Tensor) -> list[Tensor]:
        return [part for expert in stack for part in expert.chunk(shares)]

    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.cat(list(parts[i : i + shares])) for i in range(0, len(parts), shares)])

    return Rule(ours, tuple(name for expert in theirs for name in expert), split, join)


def reordered(ours: str, theirs: str, order: Sequence[int], *, dim: int = 0) -> Rule:
    """The same numbers with row (or column) i of theirs at `order[i]` of ours."""
    places = torch.tensor(order)
    back = torch.empty_like(places)
    back[places] = torch.arange(len(places))
    return Rule(
        ours,
        (theirs,),
        lambda t: [t.index_select(dim, places.to(t.device))],
        lambda ts: ts[0].index_select(dim, back.to(ts[0].device)),
    )


def factor_of(name: str, factors: Mapping[str, float]) -> float:
    """The factor for a tensor of theirs."""
    return next((factor for end, factor in factors.items() if name.endswith(end)), 1.0)


def to_theirs(
    rules: Iterable[Rule], ours: Mapping[str, Tensor], factors: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Tensor]:
    """All tensors of the other format, each with memory of its own, `factors` taken out of them."""
    written: dict[str, Tensor] = {}
    for rule in rules:
        parts = list(rule.split(ours[rule.ours].detach()))
        names = list(rule.theirs)
        if rule.write_copies:
            names += rule.copies
            parts += [parts[0]] * len(rule.copies)
        written |= {
            name: part.clone(memory_format=torch.contiguous_format) for name, part in zip(names, parts, strict=True)
        }
    return {name: t / factor_of(name, factors) if factor_of(name, factors) != 1 else t for name, t in written.items()}


def to_ours(
    rules: Sequence[Rule],
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, Tensor],
    origin: str,
    factors: Mapping[str, float],
) -> dict[str, Tensor]:
    """Our tensors in fp32 from theirs; `shapes` are our tensors without numbers, on the meta device.

    `factors`, by the end of their names, are multiplied in.
    BadInput counts what is missing, extra or misshapen and names the first five; for copies that are not equal, for
    tensors of whole numbers or fp8, and for weights that are not finite.
    """
    _check(rules, theirs, shapes, origin)
    numbers = {name: tensor.float() for name, tensor in theirs.items()}
    numbers |= {name: factor_of(name, factors) * numbers[name] for name in numbers if factor_of(name, factors) != 1}
    if broken := [name for name, tensor in numbers.items() if not bool(tensor.isfinite().all())]:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise BadInput(f"{origin}: {broken[0]}{more} holds NaN or infinity in fp32; a model's weights are finite")
    return {rule.ours: rule.join([numbers[name] for name in rule.theirs]).contiguous() for rule in rules}


def _check(rules: Sequence[Rule], theirs: Mapping[str, Tensor], shapes: Mapping[str, Tensor], origin: str) -> None:
    expected: dict[str, torch.Size] = {}
    optional: dict[str, str] = {}
    for rule in rules:
        parts = rule.split(shapes[rule.ours])
        expected |= {name: part.shape for name, part in zip(rule.theirs, parts, strict=True)}
        optional |= dict.fromkeys(rule.copies, rule.theirs[0])
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
