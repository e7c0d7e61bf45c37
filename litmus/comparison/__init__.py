"""Comparisons: equal terms, paired trials, statistics, verdicts and the report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litmus.comparison.comparison import Comparison, compare
    from litmus.comparison.report import Section
    from litmus.comparison.results import ComparisonResult, TrialResult

_HOME = {
    "Comparison": "comparison",
    "ComparisonResult": "results",
    "Section": "report",
    "TrialResult": "results",
    "compare": "comparison",
}
__all__ = ["Comparison", "ComparisonResult", "Section", "TrialResult", "compare"]


def __getattr__(name: str) -> Any:
    """Import only what is used: a trial's process has no need of figures and statistics."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
