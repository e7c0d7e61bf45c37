"""Where a difference between two passes begins: the innermost part that gets the same and gives something else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from litmus.model import Decoder

Passage = tuple[str, Tensor, Tensor]
"""A part's name, what it was given and what it gave, both (B, T, ...)."""


@contextlib.contextmanager
def passages(model: Decoder) -> Iterator[list[Passage]]:
    """Collect what goes into and comes out of each part, in the order in which parts finish."""
    seen: list[Passage] = []

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            given = inputs[0] if inputs else None
            if isinstance(given, Tensor) and isinstance(output, Tensor) and given.shape[:2] == output.shape[:2]:
                seen.append((name, given.detach(), output.detach()))

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_difference(model: Decoder, one: Tensor, other: Tensor, until: int, tolerance: float) -> str:
    """The part where positions below `until` begin to differ between tokens (B, T) `one` and `other`; "" if none."""
    with torch.no_grad():
        with passages(model) as first:
            model(one)
        with passages(model) as second:
            model(other)
    for (name, given, gave), (_, given_too, gave_too) in zip(first, second, strict=False):
        same_shape = given.shape == given_too.shape and gave.shape == gave_too.shape
        if (
            same_shape
            and agree(given[:, :until], given_too[:, :until], tolerance)
            and not agree(gave[:, :until], gave_too[:, :until], tolerance)
        ):
            return described(model, name)
    return ""


def agree(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two tensors lie no further apart than `tolerance`, in units of their largest number."""
    largest = float(b.abs().max()) if b.numel() else 0.0
    return bool(((a - b).abs() <= tolerance * max(largest, 1e-30)).all())


def described(model: Decoder, name: str) -> str:
    """ "layer 3 of 0..4, mixer (PhraseAttention)" for the part "layers.3.mixer"."""
    part = type(model.get_submodule(name)).__name__
    family, _, rest = name.partition(".")
    if family != "layers":
        return f"{name} ({part})"
    number, _, inside = rest.partition(".")
    place = f"layer {number} of 0..{len(model.layers) - 1}"
    return f"{place}, {inside} ({part})" if inside else f"{place} ({part})"
