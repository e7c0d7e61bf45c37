"""Building modules on the meta device: shapes without values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = {
    *(getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")),
    Tensor.normal_,
    Tensor.uniform_,
}


class _WithoutFills(TorchFunctionMode):
    """Leaves out random fills of tensors that hold no values.

    On the meta device torch computes them by Python code that imports its compiler, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in _FILLS:
            filled = args[0] if args else named.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return func(*args, **named)


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """New tensors are on the meta device."""
    with torch.device("meta"), _WithoutFills():
        yield
