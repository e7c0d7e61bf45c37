"""torch.compile, with a clear message where it cannot work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from litmus.errors import BadInput


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`function` compiled for each shape of its arguments; the function itself stays uncompiled."""
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    if not any(name and shutil.which(name) for name in compilers):
        raise BadInput(
            "compile needs a C++ compiler and found none (g++ or clang++); install one, or train without compile"
        )
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        raise BadInput("compile on a CUDA device needs the package 'triton'; install it, or train without compile")
    return torch.compile(function, dynamic=False)
