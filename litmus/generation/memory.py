"""Whether a cache fits into memory, before it is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from litmus.errors import BadInput
from litmus.model import Decoder


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


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:  # what the kernel would free counts as free, where it says so
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
