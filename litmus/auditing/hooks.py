"""Hooks into a model under audit: module outputs, the module where two passes begin to differ, the training loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from litmus.auditing.modes import NoDropout, buffers_kept
from litmus.model import Loss
from litmus.nn import AuxLosses, Batch
from litmus.runtime.device import seeded

ModuleRecord = tuple[str, Tensor, Tensor]
"""A module's name, its first input and its output, both (B, T, ...)."""


@contextlib.contextmanager
def captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the output tensors of `module` within the block; each retains its gradient."""
    outputs: list[Tensor] = []

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            if output.requires_grad:
                output.retain_grad()
            outputs.append(output)

    handle = module.register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[list[ModuleRecord]]:
    """Collect input and output of every module within the block, in the order in which modules finish."""
    seen: list[ModuleRecord] = []

    def hook_for(name: str) -> Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], named: dict[str, object], output: object) -> None:
            given, result = first_tensor((*inputs, *named.values())), first_tensor(output)
            if given is not None and result is not None and given.shape[:2] == result.shape[:2]:
                seen.append((name, given.detach(), result.detach()))

        return hook

    handles = [
        module.register_forward_hook(hook_for(name), with_kwargs=True) for name, module in model.named_modules() if name
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(given: object) -> Tensor | None:
    """A tensor itself, or the first one in a tuple, list or mapping."""
    items = given.values() if isinstance(given, Mapping) else given if isinstance(given, (tuple, list)) else (given,)
    return next((item for item in items if isinstance(item, Tensor)), None)


def first_difference(model: Any, one: Tensor, other: Tensor, until: int, tolerance: float) -> str:
    """The module where positions below `until` begin to differ between tokens (B, T) `one` and `other`; "" if none."""
    return first_differing_module(model, full_pass(model, one), full_pass(model, other), until, tolerance)


def first_difference_in_decoding(model: Any, tokens: Tensor, until: int, tolerance: float) -> str:
    """The module where positions below `until` begin to differ when tokens (B, T) are decoded one by one."""
    cache = model.new_cache(*tokens.shape)
    steps = []
    with torch.no_grad():
        for token in tokens.split(1, dim=1):
            with recorded(model) as seen:
                model(token, cache)
            steps.append(seen)
    decoded = []
    for i, (name, _, _) in enumerate(steps[0]):
        calls = [step[i] for step in steps if i < len(step) and step[i][0] == name]
        decoded.append((name, along_time([call[1] for call in calls]), along_time([call[2] for call in calls])))
    return first_differing_module(model, full_pass(model, tokens), decoded, until, tolerance)


def along_time(steps: list[Tensor]) -> Tensor:
    """The tensors (B, 1, ...) of each step as one; empty where their shapes grow from step to step, as keys may."""
    if len({(step.shape[0], step.shape[2:]) for step in steps}) > 1:
        return torch.empty(0, 0)
    return torch.cat(steps, 1)


def full_pass(model: nn.Module, tokens: Tensor) -> list[ModuleRecord]:
    with torch.no_grad(), recorded(model) as seen:
        model(tokens)
    return seen


def first_differing_module(
    model: nn.Module, first: list[ModuleRecord], second: list[ModuleRecord], until: int, tolerance: float
) -> str:
    """The first (innermost) module with equal inputs but different outputs at positions below `until`.

    If there is none, as where a layer hands on more than one stream, the first with different outputs.
    """
    different = ""
    for (name, *one), (_, *other) in zip(first, second, strict=False):
        (input_1, output_1), (input_2, output_2) = ([t[:, :until] for t in record] for record in (one, other))
        if input_1.shape != input_2.shape or output_1.shape != output_2.shape:
            continue
        if close(output_1, output_2, tolerance):
            continue
        if close(input_1, input_2, tolerance):
            return describe_module(model, name)
        different = different or name
    return describe_module(model, different) if different else ""


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by at most `tolerance` times the largest magnitude in `b`."""
    largest = float(b.abs().max()) if b.numel() else 0.0
    return bool(((a - b).abs() <= tolerance * max(largest, 1e-30)).all())


def describe_module(model: Any, name: str) -> str:
    """ "layer 3 of 0..4, mixer (PhraseAttention)" for the module "layers.3.mixer"."""
    kind = type(model.get_submodule(name)).__name__
    root, _, rest = name.partition(".")
    if root != "layers":
        return f"{name.removeprefix('module.')} ({kind})"
    number, _, inside = rest.partition(".")
    layer = f"layer {number} of 0..{len(model.layers) - 1}"
    return f"{layer}, {inside} ({kind})" if inside else f"{layer} ({kind})"


@contextlib.contextmanager
def added_aux_losses() -> Iterator[list[tuple[str, float, Tensor]]]:
    """Collect name, weight and value of what layers add to `AuxLosses` within the block."""
    added: list[tuple[str, float, Tensor]] = []
    add = AuxLosses.add

    def adding(self: AuxLosses, name: str, value: Tensor, weight: float, count: Tensor | None = None) -> None:
        added.append((name, weight, value))
        add(self, name, value, weight, count)

    AuxLosses.add = adding  # type: ignore[method-assign]
    try:
        yield added
    finally:
        AuxLosses.add = add  # type: ignore[method-assign]


def training_loss(model: Any, tokens: Tensor | Batch, targets: Tensor | None = None, *, seed: int) -> Loss:
    """`model.loss` in training mode without dropout, with all randomness from `seed`.

    The model's buffers are afterwards what they were before.
    """
    if not model.training:  # to set it in all modules takes a tenth of a pass of a small model
        model.train()
    with seeded(seed), buffers_kept(model), NoDropout():
        loss: Loss = model.loss(tokens) if targets is None else model.loss(tokens, targets)
        return loss


def training_logits(model: Any, tokens: Tensor, *, seed: int) -> Tensor:
    """`model(tokens)` in training mode without dropout, with all randomness from `seed`."""
    model.train()
    with seeded(seed), buffers_kept(model), NoDropout(), torch.no_grad():
        logits: Tensor = model(tokens)
        return logits
