"""Tensors that have a shape and no values: on the meta device, or fake ones, by which costs are counted."""

from __future__ import annotations

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def has_values(tensor: Tensor) -> bool:
    """Whether the numbers in the tensor can be looked at."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))
