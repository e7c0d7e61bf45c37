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
    return culprit(model, in_one_pass(model, one), in_one_pass(model, other), until, tolerance)


def first_difference_in_decoding(model: Decoder, tokens: Tensor, until: int, tolerance: float) -> str:
    """The part where positions below `until` begin to differ when tokens (B, T) are decoded one by one."""
    cache = model.new_cache(*tokens.shape)
    steps = []
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            with passages(model) as seen:
                model(token, cache)
            steps.append(seen)
    decoded = [
        (name, torch.cat([step[i][1] for step in steps], 1), torch.cat([step[i][2] for step in steps], 1))
        for i, (name, _, _) in enumerate(steps[0])
    ]
    return culprit(model, in_one_pass(model, tokens), decoded, until, tolerance)


def in_one_pass(model: Decoder, tokens: Tensor) -> list[Passage]:
    with torch.no_grad(), passages(model) as seen:
        model(tokens)
    return seen


def culprit(model: Decoder, first: list[Passage], second: list[Passage], until: int, tolerance: float) -> str:
    """The first part that gets the same at positions below `until` in two passes and gives something else."""
    for (name, *one), (_, *other) in zip(first, second, strict=False):
        (given, gave), (given_too, gave_too) = ([t[:, :until] for t in passage] for passage in (one, other))
        if given.shape != given_too.shape or gave.shape != gave_too.shape:
            continue
        if agree(given, given_too, tolerance) and not agree(gave, gave_too, tolerance):
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
