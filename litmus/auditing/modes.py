"""Modes in which a model is run for an audit: without dropout, without stopped gradients, on copies of its buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

DROPOUTS = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
    torch.dropout_,
    torch.alpha_dropout,
    torch.feature_dropout,
    torch.feature_alpha_dropout,
}
PROBABILITIES = {F.scaled_dot_product_attention: 4, F.multi_head_attention_forward: 10}
"""Functions with an argument `dropout_p`, and its place."""


class NoDropout(TorchFunctionMode):
    """Functional dropout returns its input: its noise is larger than any tolerance."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func in PROBABILITIES:
            index = PROBABILITIES[func]
            args = (*args[:index], 0.0, *args[index + 1 :]) if len(args) > index else args
            kwargs = {**kwargs, "dropout_p": 0.0} if "dropout_p" in kwargs else kwargs
        return func(*args, **kwargs)


class NoStoppedGradients(TorchFunctionMode):
    """`detach` returns its input, so that gradients are those of the function that is computed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.detach, torch.detach):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """The model works on copies of its buffers in this block and has its own again afterwards.

    Nothing is written into a tensor that a backward pass may still need.
    """
    kept = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    copies: dict[int, Tensor] = {}
    for module, name, buffer in kept:
        if buffer is not None:  # modules may share a buffer
            module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
