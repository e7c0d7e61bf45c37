"""Costs that no counter of operators sees: sums of products without a matrix product, and memory by length."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from litmus.auditing.check import Evidence
from litmus.auditing.target import AuditTarget

MIN_EXPANSION = 4
"""A product is one of broadcast tensors if it has this many times the elements of either factor."""

MAX_HIDDEN_SHARE = 0.2
"""Hidden multiply-adds relative to counted FLOPs. States of recurrences and kernels of a few taps, which are written
this way too, stay below a tenth."""

MAX_HIDDEN_WEIGHTS_SHARE = 0.1
"""Hidden multiply-adds with weights relative to one per weight of the layers, where short kernels take a hundredth."""

MAX_EXPONENT = 2.3
"""Largest power of the length by which the memory of a forward pass may grow: 2 with attention scores in memory."""

LENGTHS = 128, 256
BROADCAST = ("mul", "sub", "add", "div", "rsub")
FUSED = ("addcmul", "addcdiv")
"""Operators that add the product of their second and third input to the first."""
REDUCTIONS = ("sum", "mean", "amax", "logsumexp", "norm", "linalg_vector_norm", "cumsum")


class CostRecorder(TorchDispatchMode):
    """Counts multiply-adds by broadcast and sum, `cdist` or `embedding_bag`, and the most bytes held at one time.

    The bytes are without those of the weights.

    hidden_flops: FLOPs of all such products. with_weights: of those with a matrix of `model`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.hidden_flops, self.with_weights, self.held, self.peak = 0, 0, 0, 0
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
        self.matrices = {p.untyped_storage().data_ptr() for p in parameters if p.ndim > 1}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        inputs = [a for a in args if isinstance(a, Tensor)]
        if name in ("_embedding_bag", "_embedding_bag_forward_only"):
            self.count(inputs[1].numel() * inputs[0].shape[-1], inputs[:1])
        if not isinstance(result, Tensor):
            return result
        self.hold(result, inputs)
        flagged = [getattr(a, "_audit_expanded", False) and a.numel() >= result.numel() for a in inputs]
        expanded = any(flagged)
        if name in REDUCTIONS:
            if expanded and name != "cumsum":
                self.count(inputs[0].numel(), inputs[:1])
        elif name == "_trilinear":
            self.count(math.prod(torch.broadcast_shapes(*unsqueezed(args))))
        elif name == "_cdist_forward":
            self.count(result.numel() * inputs[0].shape[-1], inputs)
        elif name == "add" and sorted(flagged) == [False, True] and inputs[0].shape == inputs[1].shape:
            self.count(result.numel())  # one product of a sum that a loop accumulates
        elif name in FUSED and result.numel() >= MIN_EXPANSION * max(map(stored, inputs[1:])):
            self.count(result.numel())
        elif (expanded and inputs[0].numel() == result.numel()) or expands(name, inputs, result):
            result._audit_expanded = True  # type: ignore[attr-defined]
            result._audit_weighed = self.weighed(inputs)  # type: ignore[attr-defined]
        return result

    def count(self, multiply_adds: int, factors: Sequence[Tensor] = ()) -> None:
        self.hidden_flops += 2 * multiply_adds
        self.with_weights += 2 * multiply_adds * self.weighed(factors)

    def weighed(self, tensors: Sequence[Tensor]) -> bool:
        """Whether one of them is a matrix of the model, or a product with one."""
        return any(
            t.untyped_storage().data_ptr() in self.matrices or getattr(t, "_audit_weighed", False) for t in tensors
        )

    def hold(self, result: Tensor, inputs: list[Tensor]) -> None:
        """Add a new tensor to the bytes held, until it is freed."""
        place = result.untyped_storage().data_ptr()
        if any(a.untyped_storage().data_ptr() == place for a in inputs):
            return
        size = result.untyped_storage().nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(result, self.free, size)

    def free(self, size: int) -> None:
        self.held -= size


def expands(name: str, inputs: list[Tensor], result: Tensor) -> bool:
    """Whether this combines two tensors into one with many more elements than either."""
    return name in BROADCAST and len(inputs) == 2 and result.numel() >= MIN_EXPANSION * max(map(stored, inputs))


def unsqueezed(args: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes that `_trilinear` multiplies, from its arguments: three tensors, and the dimensions each lacks."""
    for tensor, lacking in zip(args[:3], args[3:6], strict=True):
        shape = list(tensor.shape)
        for dimension in sorted(lacking):
            shape.insert(dimension, 1)
        yield tuple(shape)


def stored(tensor: Tensor) -> int:
    """Elements in memory; an expanded tensor has fewer than it shows."""
    return min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size())


def hidden_costs(target: AuditTarget) -> Iterator[Evidence]:
    """Products as broadcast and sum against the FLOPs that are counted; memory at two lengths."""
    lengths = [length for length in LENGTHS if length <= target.longest]
    if not lengths or target.affordable < 1:
        return
    model, peaks = target.unperturbed, []
    for length in lengths:
        with torch.no_grad(), CostRecorder(model) as recorder:
            model(target.text(length))
        peaks.append(recorder.peak)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(target.text(lengths[-1]))
    counted = counter.get_total_flops()
    share = recorder.hidden_flops / max(1, counted)
    of_weights = recorder.with_weights / (2 * lengths[-1] * max(1, target.layer_weights))
    if share > MAX_HIDDEN_SHARE or of_weights > MAX_HIDDEN_WEIGHTS_SHARE:
        yield Evidence(
            f"{recorder.hidden_flops / lengths[-1]:,.0f} FLOPs per token are products and sums by other operators "
            "than matrix products, which no counter sees, in addition to "
            f"{counted / lengths[-1]:,.0f} that are counted",
            fault=True,
            measured=share if share > MAX_HIDDEN_SHARE else of_weights,
            tolerance=MAX_HIDDEN_SHARE if share > MAX_HIDDEN_SHARE else MAX_HIDDEN_WEIGHTS_SHARE,
            where=f"forward pass of {lengths[-1]} tokens",
            mark="takes FLOPs that are not counted",
            meaning="The cost column of a comparison would be too low; as matrix products they would also be faster.",
        )
    if len(peaks) < 2:
        return
    exponent = math.log2(peaks[1] / peaks[0])
    yield Evidence(
        f"a forward pass of {lengths[1]} tokens holds {peaks[1] / 1e6:.3g} MB in fp64, which grow as T^{exponent:.1f}",
        fault=exponent > MAX_EXPONENT,
        measured=exponent,
        tolerance=MAX_EXPONENT,
        where="forward pass" if exponent > MAX_EXPONENT else "",
        mark="takes memory by a high power of the length",
    )
