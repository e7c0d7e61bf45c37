"""Whether a cache fits into memory, before it is allocated."""

from __future__ import annotations

import torch

from litmus.errors import BadInput
from litmus.model import Decoder
from litmus.runtime.memory import free_bytes


def check_room(model: Decoder, rows: int, capacity: int, device: torch.device | None = None) -> None:
    """BadInput when a cache of `rows` x `capacity` tokens does not fit, naming its size and the most rows that do.

    `device` is where the cache will be, for a model that is not there yet (one on the meta device).
    """
    if rows < 1:
        raise BadInput(f"rows = {rows} decodes nothing; it must be at least 1")
    like = model.embedding.weight
    each = model.kv_elements(capacity) * like.element_size()
    free = free_bytes(device or like.device)
    if each * rows > free:
        fitting = free // each
        advice = f"{fitting} rows fit" if fitting else "not even one row fits, so shorten the context"
        raise BadInput(
            f"a cache of {rows} rows x {capacity} tokens needs {_size(each * rows)} and {_size(free)} are free; "
            f"{advice}"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
