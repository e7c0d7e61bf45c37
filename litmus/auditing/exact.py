"""Exact arithmetic for the audit: casts stay in fp64, and ties are broken in one way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

COARSER = (torch.float32, torch.bfloat16, torch.float16)
CASTS = {Tensor.to, Tensor.type, Tensor.type_as}
CASTS_BY_NAME = {Tensor.float, Tensor.half, Tensor.bfloat16}
GROUPED_PRODUCTS: set[Any] = {torch.nn.functional.grouped_mm, torch._grouped_mm}


class Exact(TorchFunctionMode):
    """Leave fp64 tensors in fp64 where the code casts them to a coarser type, and let `topk` take the first of equals.

    Many models compute norms and softmax in fp32 at any precision; lifted to fp64 they can be held to 1e-9. Indexers of
    sparse attention score many tokens with exactly 0, and which of them topk takes is not defined: it may differ
    between lengths, which is no fault of the model. Products of groups of rows, as of experts, have no kernel in fp64
    and are computed group by group.

    everywhere: lift casts of other tensors too, such as the positions that angles are computed from.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.topk, Tensor.topk) and kwargs.get("largest", True) and len(args) <= 3:
            return stable_topk(*args, **{key: kwargs[key] for key in ("k", "dim") if key in kwargs})
        first = args[0] if args else None
        if self.everywhere and func in CASTS_BY_NAME:
            return args[0].double()
        exact = isinstance(first, Tensor) and first.dtype == torch.float64
        if exact or self.everywhere:
            if exact and func in GROUPED_PRODUCTS:
                return grouped_product(*args, **kwargs)
            if func in CASTS_BY_NAME:
                return first
            if kwargs.get("dtype") in COARSER:
                kwargs["dtype"] = torch.float64
            if func in CASTS:
                args = (first, *(lifted(item) for item in args[1:]))
        return func(*args, **kwargs)


def lifted(item: Any) -> Any:
    """fp64 for a coarser type, and for a tensor whose type is taken."""
    if isinstance(item, Tensor) and item.dtype in COARSER:
        return item.to(torch.float64)
    return torch.float64 if item in COARSER else item


def grouped_product(rows: Tensor, matrices: Tensor, *, offs: Tensor, **_: Any) -> Tensor:
    """`grouped_mm`: the rows (S, K) from one of the offsets (G,) to the next times the matrices (G, K, M)."""
    ends = [0, *offs.tolist()]
    products = [rows[start:end] @ matrix for start, end, matrix in zip(ends[:-1], ends[1:], matrices, strict=True)]
    return torch.cat([*products, rows.new_zeros(len(rows) - ends[-1], matrices.shape[-1])])


def stable_topk(values: Tensor, k: int, dim: int = -1) -> Any:
    """`torch.topk`, with the first of equal values."""
    ordered = torch.sort(values, dim=dim, descending=True, stable=True)
    return torch.return_types.topk((ordered.values.narrow(dim, 0, k), ordered.indices.narrow(dim, 0, k)))
