"""Litmus puts transformer ideas to the test: describe one, audit it, train it against a baseline, read the verdict."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litmus.auditing.audit import audit
    from litmus.comparison.compare import compare
    from litmus.generation.generate import generate
    from litmus.model import Decoder, build, recipes, save
    from litmus.runs import Run, evaluate, train
    from litmus.training.run.loading import load

__version__ = "0.1.0"

_PUBLIC = {
    "Decoder": "litmus.model",
    "Run": "litmus.runs",
    "audit": "litmus.auditing",
    "build": "litmus.model",
    "compare": "litmus.comparison.compare",
    "evaluate": "litmus.runs",
    "generate": "litmus.generation",
    "load": "litmus.training.run.loading",
    "recipes": "litmus.model",
    "save": "litmus.model",
    "train": "litmus.runs",
}
__all__ = [
    "Decoder",
    "Run",
    "__version__",
    "audit",
    "build",
    "compare",
    "evaluate",
    "generate",
    "load",
    "recipes",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when something is used, so that `litmus --help` answers at once."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'litmus' has no attribute {name!r}")
