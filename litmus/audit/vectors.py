"""The vectors that tokens become, caught on their way into the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def captured(part: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what `part` puts out within the block, each output keeping its gradient."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            if output.requires_grad:
                output.retain_grad()
            outputs.append(output)

    handle = part.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
