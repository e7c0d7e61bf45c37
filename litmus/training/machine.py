"""What a training runs on: device, threads, hardware and versions, and how much memory it took."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from litmus.errors import BadInput

PACKAGES = ("litmus-lm", "torch", "numpy", "safetensors", "tokenizers", "pydantic")


def pick_device(name: str) -> torch.device:
    """The device of that name; auto is a CUDA device when there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"device {name!r} cannot train; auto, cpu, cuda and cuda:N are valid")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device {name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA devices")
    return device


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, memory and the abilities that change results or speed."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpu_abilities": sorted(
            name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)
        ),
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": gpu.name, "memory_bytes": gpu.total_memory}
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose code decides the result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use at one time: on the GPU by its tensors, on the CPU by the whole process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """Most memory this process has held at one time.

    From Linux itself where it tells: what getrusage gives begins at what the parent process held when it forked.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def reproducibly(threads: int) -> Iterator[None]:
    """Within this block: so many CPU threads, which decide the order of sums, and a random state that is given back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)


def _cpu_name() -> str:
    """The processor's own name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
