"""The hardware and the package versions that a result depends on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from litmus.runtime.memory import total_bytes

PACKAGES = ("litmus-lm", "torch", "numpy", "safetensors", "tokenizers", "pydantic")


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, usable cores, memory, and the CPU instructions and GPU that change results or speed."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": total_bytes(),
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


def usable_cores() -> int | None:
    """Logical cores that this process may run on."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count()


def cpu_name() -> str:
    """The processor's model name if the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # psutil does not tell it
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
