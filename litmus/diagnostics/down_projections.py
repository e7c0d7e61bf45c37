"""The down-projections Y = X Wᵀ of feedforwards, dense or of experts, and the inputs X that they receive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from litmus.model import Decoder
from litmus.nn.layers.feedforwards import Dense, Swiglu
from litmus.nn.moe.experts import Experts


@dataclass(frozen=True)
class DownProjection:
    """The matrix W (dim, hidden) of one feedforward, or of one of its experts.

    layer: number of the first layer that uses it. parameter: its name in the model; expert: its index in a stack
    (E, dim, hidden), None for a single matrix. module: the linear layer, or the stack of experts.
    """

    layer: int
    parameter: str
    expert: int | None
    module: nn.Module

    @property
    def matrix(self) -> Tensor:
        """W (dim, hidden); a view of the parameter, so that writing to it changes the model."""
        weight: Any = self.module.weight if self.expert is None else self.module.down
        return weight.data if self.expert is None else weight.data[self.expert]

    @property
    def place(self) -> str:
        """Where the matrix is, for tables: its parameter, and the expert if it is one of a stack."""
        return self.parameter if self.expert is None else f"{self.parameter}[{self.expert}]"


Receive = Callable[[DownProjection, Tensor, Tensor, Tensor | None], None]
"""(projection, X (N, hidden), numbers (N,) of the tokens in the flattened batch, their gates (N,)) -> None.

Gates are None for a single matrix.
"""


def down_projections(model: Decoder) -> list[DownProjection]:
    """Every down-projection of the model's feedforwards, by layer; weights that layers share are listed once."""
    found: list[DownProjection] = []
    seen: set[int] = set()
    for number, layer in enumerate(model.layers):
        for name, module in layer.named_modules(prefix=f"layers.{number}"):
            if id(module) in seen:
                continue
            seen.add(id(module))
            if isinstance(module, Dense | Swiglu) and isinstance(module.down, nn.Linear):
                found.append(DownProjection(number, f"{name}.down.weight", None, module.down))
            elif isinstance(module, Experts):
                found += [DownProjection(number, f"{name}.down", e, module) for e in range(len(module.down))]
    return found


@contextlib.contextmanager
def down_inputs(projections: list[DownProjection], receive: Receive) -> Iterator[None]:
    """In this block `receive` gets the input of each of the projections, at every forward pass."""
    by_module: dict[int, list[DownProjection]] = {}
    for projection in projections:
        by_module.setdefault(id(projection.module), []).append(projection)

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        for projection in by_module[id(module)]:
            receive(projection, *projection_input(projection, inputs))

    handles = [group[0].module.register_forward_hook(hook) for group in by_module.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def projection_input(projection: DownProjection, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor | None]:
    """X (N, hidden) of a projection from the inputs of its module; numbers (N,) of the tokens; their gates (N,).

    Gates are None for a single matrix. An expert's input is computed again, as the fast path sorts all experts' tokens.
    """
    if projection.expert is None:
        x = inputs[0].flatten(0, -2)
        return x, torch.arange(len(x), device=x.device), None
    assert isinstance(projection.module, Experts)
    tokens, routing = inputs
    number, choice = (routing.experts == projection.expert).nonzero(as_tuple=True)
    hidden = projection.module.expert_hidden(tokens[number], projection.expert)
    return hidden, number, routing.gates[number, choice]
