"""Memory of the machine, of this process and of its GPU: total, free, peak, and a limit."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil
import torch


def total_bytes() -> int:
    """RAM of this machine."""
    return int(psutil.virtual_memory().total)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device, including what the system would free for it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(psutil.virtual_memory().available)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the tensors on a GPU; on the CPU of the whole process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak_bytes()


def process_peak_bytes() -> int:
    """Peak resident memory of this process.

    On Linux from /proc, which psutil does not read for it: the value of getrusage in a forked process starts at the
    resident memory of its parent.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def limit_memory() -> None:
    """Let this process allocate at most three quarters of the memory that is free now (Linux only).

    An endless allocation then fails in this process before it exhausts the machine or the container.
    """
    if not psutil.LINUX:
        return
    process, free = psutil.Process(), psutil.virtual_memory().available
    in_container = _free_in_cgroup()
    free = free if in_container is None else min(free, in_container)
    _, hard = process.rlimit(psutil.RLIMIT_DATA)
    wanted = process.memory_info().data + free * 3 // 4
    process.rlimit(psutil.RLIMIT_DATA, (wanted if hard == psutil.RLIM_INFINITY else min(wanted, hard), hard))


def _free_in_cgroup() -> int | None:
    """What is left of the memory limit of the container (cgroup v2), None without a limit."""
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    return None
